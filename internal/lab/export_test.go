package lab

// What the tests, which are outside because labtest is, reach in for.
var (
	CachedIn     = cached
	StartOnTree  = (*Host).startOnTree
	NewCgroup    = newCgroup
	MakeCgroup2  = makeCgroup2
	CloseCgroup  = closeCgroup
	CgroupRoots  = cgroupRoots
	CgroupPrefix = cgroupPrefix
)
