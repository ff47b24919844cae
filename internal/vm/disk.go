package vm

import (
	"fmt"
	"os"
	"os/exec"
)

// diskSize is a size for all disks. The image takes what is used of it.
const diskSize = "4G"

// NewDisk makes an image of a disk with the files of a folder. It needs e2fsprogs.
func NewDisk(image, folder string) error {
	mke2fs := exec.Command("mke2fs", "-q", "-t", "ext4", "-d", folder, image, diskSize)
	mke2fs.Env = append(os.Environ(), "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	if out, err := mke2fs.CombinedOutput(); err != nil {
		return fmt.Errorf("make a disk of %s: %w: %s", folder, err, out)
	}
	return nil
}
