package nft

import (
	"bytes"
	"iter"
	"slices"

	"github.com/google/nftables/expr"
	"golang.org/x/sys/unix"
)

func decodeSet(msg []byte) (id setID, s *set, err error) {
	s = new(set)
	id.table.family, err = attributes(msg, func(a *attr) {
		switch a.kind {
		case unix.NFTA_SET_TABLE:
			id.table.name = a.text()
		case unix.NFTA_SET_NAME:
			id.name = a.text()
		case unix.NFTA_SET_FLAGS:
			s.interval = a.number()&setFlagInterval != 0
			s.concat = a.number()&setFlagConcat != 0
			s.isMap = a.number()&setFlagMap != 0
		case unix.NFTA_SET_KEY_LEN:
			s.keyLen = a.number()
		}
	})
	return id, s, err
}

// decodeElements adds the elements that a message has.
func (s *set) decodeElements(msg []byte) error {
	_, err := attributes(msg, func(a *attr) {
		if a.kind != unix.NFTA_SET_ELEM_LIST_ELEMENTS {
			return
		}
		a.do(func(b []byte) error {
			return nested(b, func(a *attr) {
				a.do(func(b []byte) error {
					e, err := decodeElement(b)
					s.elements = append(s.elements, e)
					return err
				})
			})
		})
	})
	return err
}

func decodeElement(b []byte) (e element, err error) {
	err = nested(b, func(a *attr) {
		value := func(to *[]byte) {
			a.do(func(b []byte) error {
				return nested(b, func(a *attr) {
					switch a.kind {
					case unix.NFTA_DATA_VALUE:
						*to = a.data
					case unix.NFTA_DATA_VERDICT:
						e.verdict = new(expr.Verdict)
						a.do(e.decodeVerdict)
					}
				})
			})
		}
		switch a.kind {
		case unix.NFTA_SET_ELEM_KEY:
			value(&e.key)
		case setElemKeyEnd:
			value(&e.keyEnd)
		case unix.NFTA_SET_ELEM_DATA:
			value(&e.value)
		case unix.NFTA_SET_ELEM_FLAGS:
			e.intervalEnd = a.number()&elemFlagEnd != 0
			e.catchAll = a.number()&elemFlagAll != 0
		}
	})
	return e, err
}

func (e *element) decodeVerdict(b []byte) error {
	return nested(b, func(a *attr) {
		switch a.kind {
		case unix.NFTA_VERDICT_CODE:
			e.verdict.Kind = expr.VerdictKind(int32(a.number()))
		case unix.NFTA_VERDICT_CHAIN:
			e.verdict.Chain = a.text()
		}
	})
}

// intervals joins the beginnings and ends of a set of intervals. An end is the
// first value behind it; the last interval may have none.
func (s *set) intervals() (list []entry) {
	bounds := slices.Clone(s.elements)
	slices.SortStableFunc(bounds, func(a, b element) int {
		if c := bytes.Compare(a.key, b.key); c != 0 {
			return c
		}
		// Where one ends, the next may begin.
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

// before is the number before b.
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

// setOf is the set that a lookup in a table means, nil if it is not there.
func (rs *Ruleset) setOf(x *expr.Lookup, table tableID) *set {
	return rs.sets[setID{table, x.SetName}]
}

// An entry is an element of a set, or the interval between two of them.
type entry struct {
	element
	last []byte // of an interval; nil: only the key
}

// entries yields what is in s. Intervals of a set that is not a concatenation
// are kept as their beginnings and ends.
func (s *set) entries() iter.Seq[entry] {
	return func(yield func(entry) bool) {
		list := make([]entry, 0, len(s.elements))
		if s.interval && !s.concat {
			list = s.intervals()
		} else {
			for _, e := range s.elements {
				list = append(list, entry{e, e.keyEnd})
			}
		}
		// A catch-all is asked last, whatever its place.
		for _, last := range []bool{false, true} {
			for _, e := range list {
				if e.catchAll == last && !yield(e) {
					return
				}
			}
		}
	}
}

// match says when what is in a register is in the entry.
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
	// A concatenation: each of its words is between the words of both ends.
	m := holds
	for i := 0; i+4 <= len(e.key) && i+4 <= len(e.last); i += 4 {
		m = m.and(p.withinWord(cells[i:i+4], e.key[i:i+4], e.last[i:i+4]))
	}
	return m
}

// withinWord is within for a field that begins a word and is filled up with
// zeroes.
func (p *Packet) withinWord(cells []cell, from, to []byte) match {
	n := 4
	for n > 1 && cells[n-1] == (cell{kind: isConstant}) && from[n-1] == 0 && to[n-1] == 0 {
		n--
	}
	return p.within(cells[:n], from[:n], to[:n])
}
