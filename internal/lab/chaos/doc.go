// Package chaos does to a running wslmirror what a bad year would: it breaks
// links, rulesets, rules, sysctls, engines and the daemons themselves, in an
// order that a seed determines, and checks after each burst of faults that the
// kernel holds what it should.
//
// What should be there is computed from a model of the world (which ports are
// published and how, which links there are), and compared with what nft and ip
// list. None of wslmirror's own code takes part in that.
package chaos
