package ruleset

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/internal/nlconn"
)

// A set is a set, a map or a verdict map.
type set struct {
	id                      setID
	interval, concat, isMap bool
	// dynamic says that packets fill it.
	dynamic bool
	keyLen  uint32

	read     reading
	elements []element // all of them, if read is whole
	list     []entry   // made from elements, in the order of matching
	found    map[string]*entry
}

// An element is one element as the kernel sends it.
type element struct {
	key, keyEnd []byte
	intervalEnd bool
	catchAll    bool
	value       []byte
	verdict     *expr.Verdict
}

func decodeSet(msg []byte) (id setID, s *set, err error) {
	s = new(set)
	id.table.family, err = nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_SET_TABLE:
			id.table.name = a.Text()
		case unix.NFTA_SET_NAME:
			id.name = a.Text()
		case unix.NFTA_SET_FLAGS:
			s.interval = a.Uint32BE()&setFlagInterval != 0
			s.concat = a.Uint32BE()&setFlagConcat != 0
			s.isMap = a.Uint32BE()&setFlagMap != 0
			s.dynamic = a.Uint32BE()&setFlagEval != 0
		case unix.NFTA_SET_KEY_LEN:
			s.keyLen = a.Uint32BE()
		}
	})
	s.id = id
	return id, s, err
}

// appendElements appends the elements in a message.
func appendElements(to []element, msg []byte) ([]element, error) {
	_, err := nlconn.GenAttrs(msg, func(a *nlconn.Attr) {
		if a.Kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		a.Do(func(b []byte) error {
			return nlconn.Attrs(b, func(a *nlconn.Attr) {
				a.Do(func(b []byte) error {
					e, err := decodeElement(b)
					to = append(to, e)
					return err
				})
			})
		})
	})
	return to, err
}

func decodeElement(b []byte) (e element, err error) {
	err = nlconn.Attrs(b, func(a *nlconn.Attr) {
		value := func(to *[]byte) {
			a.Do(func(b []byte) error {
				return nlconn.Attrs(b, func(a *nlconn.Attr) {
					switch a.Kind {
					case unix.NFTA_DATA_VALUE:
						*to = a.Data
					case unix.NFTA_DATA_VERDICT:
						e.verdict = new(expr.Verdict)
						a.Do(e.decodeVerdict)
					}
				})
			})
		}
		switch a.Kind {
		case unix.NFTA_SET_ELEM_KEY:
			value(&e.key)
		case setElemKeyEnd:
			value(&e.keyEnd)
		case unix.NFTA_SET_ELEM_DATA:
			value(&e.value)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.intervalEnd = a.Uint32BE()&elemFlagEnd != 0
			e.catchAll = a.Uint32BE()&elemFlagAll != 0
		}
	})
	return e, err
}

func (e *element) decodeVerdict(b []byte) error {
	return nlconn.Attrs(b, func(a *nlconn.Attr) {
		switch a.Kind {
		case unix.NFTA_VERDICT_CODE:
			e.verdict.Kind = expr.VerdictKind(int32(a.Uint32BE()))
		case unix.NFTA_VERDICT_CHAIN:
			e.verdict.Chain = a.Text()
		}
	})
}

// intervals joins the start and end elements of an interval set. An end is the first
// value after the interval; the last interval may have none.
func intervals(elements []element) (list []entry) {
	bounds := slices.Clone(elements)
	slices.SortStableFunc(bounds, func(a, b element) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		// Where one interval ends, the next may begin.
		return boolCompare(!a.intervalEnd, !b.intervalEnd)
	})
	for i, e := range bounds {
		if e.intervalEnd {
			continue
		}
		last := bytes.Repeat([]byte{0xff}, len(e.key))
		if e.catchAll {
			list = append(list, entry{element: e})
			continue
		}
		if i+1 < len(bounds) {
			last = before(bounds[i+1].key)
		}
		list = append(list, entry{e, last})
	}
	return list
}

func boolCompare(a, b bool) int {
	switch {
	case a == b:
		return 0
	case b:
		return -1
	}
	return 1
}

// before returns the number before b.
func before(b []byte) []byte {
	b = slices.Clone(b)
	for i := len(b) - 1; i >= 0; i-- {
		b[i]--
		if b[i] != 0xff {
			break
		}
	}
	return b
}

// An entry is an element of a set, or the interval between two of them.
type entry struct {
	element
	last []byte // of the interval; nil: only the key
}

// A reading is how much of a set is known.
type reading int

const (
	unread   reading = iota
	whole            // all of its elements
	tooLarge         // too many elements to read
)

// mostElements is the maximum number of elements read from a set. Engines publish
// hundreds of ports, but blocklists have a hundred thousand addresses.
const mostElements = 1 << 14

// readElements reads all elements of s, unless there are more than most.
func (rs *Ruleset) readElements(s *set, most int) {
	if s.read != unread || rs.from == nil {
		return
	}
	var elements []element
	var decoding error
	err := rs.from.elementsOf(s.id, func(msg []byte) bool {
		elements, decoding = appendElements(elements, msg)
		return decoding == nil && len(elements) <= most
	})
	if err = errors.Join(err, decoding); err != nil {
		rs.fail(fmt.Errorf("read the elements of set %s: %w", s.id.name, err))
	}
	if err != nil || len(elements) > most {
		s.read = tooLarge
		return
	}
	s.fill(elements)
}

// fill sets the elements of s.
func (s *set) fill(elements []element) {
	s.elements, s.read = elements, whole
	var list []entry
	if s.interval && !s.concat {
		list = intervals(elements)
	} else {
		for _, e := range elements {
			list = append(list, entry{e, e.keyEnd})
		}
	}
	// A catch-all matches last, wherever it stands.
	slices.SortStableFunc(list, func(a, b entry) int { return boolCompare(a.catchAll, b.catchAll) })
	s.list = list
}

// find returns the entry that a lookup of key finds, nil if there is none. It lets the
// kernel search, which takes the same time for any size of the set.
func (rs *Ruleset) find(s *set, key []byte) (found *entry, ok bool) {
	if found, known := s.found[string(key)]; known {
		return found, true
	}
	e, err := rs.from.element(s.id, key)
	if err != nil {
		rs.fail(fmt.Errorf("look up an element of set %s: %w", s.id.name, err))
		return nil, false
	}
	if e != nil {
		// For an interval the kernel returns the start.
		found = &entry{element: *e}
		found.key, found.keyEnd = key, nil
	}
	if s.found == nil {
		s.found = map[string]*entry{}
	}
	s.found[string(key)] = found
	return found, true
}

// mostFinds is the maximum number of keys that are looked up one by one.
const mostFinds = 1024

// entriesFor returns the entries of s that a lookup of these cells may find. ok is
// false if they are not known.
func (rs *Ruleset) entriesFor(s *set, p *Packet, cells []cell) (list []entry, ok bool) {
	if s.read == whole {
		return s.list, true
	}
	if rs.from == nil {
		return nil, false
	}
	keys, exact := p.possible(cells)
	if !exact && !s.isMap && !slices.ContainsFunc(cells, func(c cell) bool { return c.kind > isConstant }) {
		return nil, false // whatever it contains
	}
	if !exact || len(keys) > 1 {
		if rs.readElements(s, mostElements); s.read == whole {
			return s.list, true
		}
		if !exact || len(keys) > mostFinds {
			return nil, false
		}
	}
	for _, key := range append(keys, nil) { // nil: the catch-all, last
		found, ok := rs.find(s, key)
		if !ok {
			return nil, false
		}
		if found != nil {
			list = append(list, *found)
		}
	}
	return list, true
}

// possible returns the values that cells can have, if they are known.
func (p *Packet) possible(cells []cell) (keys [][]byte, exact bool) {
	if b, ok := values(cells); ok {
		return [][]byte{b}, true
	}
	if len(cells) > 0 && cells[0].kind == isField && run(cells) == len(cells) {
		return p.forwarded.values(int(cells[0].value), len(cells)), true
	}
	return nil, false
}

// match returns when the value in a register is in the entry.
func (e entry) match(p *Packet, r *registers, reg uint32) match {
	switch {
	case e.catchAll:
		return holds
	case e.last == nil:
		return p.equal(r.load(reg, len(e.key)), e.key)
	}
	cells := r.load(reg, len(e.key))
	if len(e.key) <= 4 {
		return p.within(cells, e.key, e.last)
	}
	// For a concatenation, each word must be between the words of both ends.
	m := holds
	for i := 0; i+4 <= len(e.key) && i+4 <= len(e.last); i += 4 {
		m = m.and(p.withinWord(cells[i:i+4], e.key[i:i+4], e.last[i:i+4]))
	}
	return m
}

// withinWord is within for a field at the start of a word that is padded with zeros.
func (p *Packet) withinWord(cells []cell, from, to []byte) match {
	n := 4
	for n > 1 && cells[n-1] == (cell{kind: isConstant}) && from[n-1] == 0 && to[n-1] == 0 {
		n--
	}
	return p.within(cells[:n], from[:n], to[:n])
}
