package main

import "strings"

// suggestion names in brackets the word that the user probably meant, "" if none is close.
func suggestion(word string, words []string) string {
	if len(word) > 30 {
		return "" // no word of ours is that long
	}
	best, least := "", len(word)/3+1 // one mistake in three letters
	for _, w := range words {
		n := distance(word, w)
		if len(word) > 1 && strings.HasPrefix(w, word) {
			n = 1
		}
		if n <= least && (best == "" || n < least) {
			best, least = w, n
		}
	}
	if best == "" {
		return ""
	}
	return " (did you mean " + best + "?)"
}

// distance is the number of edits that turn a into b: a letter is inserted, removed,
// replaced, or swapped with the next one.
func distance(a, b string) int {
	rows := make([][]int, len(a)+1)
	for i := range rows {
		rows[i] = make([]int, len(b)+1)
		for j := range rows[i] {
			switch {
			case i == 0 || j == 0:
				rows[i][j] = i + j
				continue
			case a[i-1] == b[j-1]:
				rows[i][j] = rows[i-1][j-1]
				continue
			}
			rows[i][j] = 1 + min(rows[i-1][j], rows[i][j-1], rows[i-1][j-1])
			if i > 1 && j > 1 && a[i-1] == b[j-2] && a[i-2] == b[j-1] {
				rows[i][j] = min(rows[i][j], 1+rows[i-2][j-2])
			}
		}
	}
	return rows[len(a)][len(b)]
}
