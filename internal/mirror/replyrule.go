package mirror

import (
	"golang.org/x/sys/unix"

	"github.com/wslmirror/wslmirror/netwatch"
	"github.com/wslmirror/wslmirror/nft"
)

// ReplyRule is the ip rule that delivers the reply of a container to a client in Linux
// locally:
//
//	0: from all fwmark 0x1000/0x1000 lookup local proto 87
//
// Its priority is that of WSL's own rules for packets that arrive; the rules of priority 1
// would send the reply to Windows. The rule outlives the process, so it has a protocol
// number of our own that identifies it.
var ReplyRule = netwatch.Rule{
	Priority: 0, Action: unix.FR_ACT_TO_TBL, Table: unix.RT_TABLE_LOCAL,
	Mark: nft.Mark, Mask: nft.Mark, SuppressPrefix: -1, Protocol: ruleProtocol,
}

// restoreMarker returns an ip rule that no packet ever reaches, because it comes after the
// tables main and default:
//
//	32800: from all fwmark 0x1000/0x1000 iif docker0 lookup local proto 87
//
// It records that the sysctl route_localnet of the bridge was 0 before we set it. A sysctl
// itself carries no mark. Whoever removes the rule restores the sysctl: this daemon, its
// successor after a crash, or a daemon in another distribution, which shares no file with
// this one.
//
// Its priority differs from that of ReplyRule. When a rule is deleted, the kernel treats
// every attribute that the request does not name as a wildcard (rule_find in
// net/core/fib_rules.c). ReplyRule names no link, so deleting it could delete a marker.
func restoreMarker(bridge string) netwatch.Rule {
	r := ReplyRule
	r.Priority, r.Iif = markerPriority, bridge
	return r
}

// markerPriority comes after the tables main (32766) and default (32767). A rule before
// them would cost every forwarded packet a comparison.
const markerPriority = 32800

// ruleProtocol marks wslmirror's rules: 'W'. include/uapi/linux/rtnetlink.h and iproute2's
// rt_protos list the numbers in use.
const ruleProtocol = 'W'

// ours finds our own rules: whether ReplyRule exists, and the bridges that have a
// restoreMarker.
func ours(rules []netwatch.Rule) (replyRule bool, restoreMarkers []string) {
	for _, r := range rules {
		switch {
		case r == ReplyRule:
			replyRule = true
		case r.Iif != "" && r == restoreMarker(r.Iif):
			restoreMarkers = append(restoreMarkers, r.Iif)
		}
	}
	return replyRule, restoreMarkers
}
