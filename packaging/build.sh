#!/bin/sh
# Builds a release for amd64 and arm64, and prints the checksums: deb, rpm and
# Arch packages, a tarball for all other distributions, a list of the modules
# that are linked into the program (SBOM), and SHA256SUMS.
#
#     packaging/build.sh [DIR]
#     packaging/build.sh --package [DIR]
#
# With --package it builds only the package for this machine. DIR is dist by
# default. The same source and the same Go give the same bytes, anywhere and at
# any time. Set VERSION=1.2.3 in the environment to build another version than
# changelog.yaml's and test an upgrade.
set -eu

arches="amd64 arm64" formats="deb rpm archlinux" only=
if [ "${1:-}" = --package ]; then
	shift
	arches=$(go env GOHOSTARCH) only=1
	# shellcheck source=/dev/null # each distribution has its own
	case " $(. /etc/os-release && echo "$ID ${ID_LIKE:-}") " in
	*" debian "*) formats=deb install="apt install" ;;
	*" fedora "*) formats=rpm install="dnf install" ;;
	*" suse "*) formats=rpm install="zypper install --allow-unsigned-rpm" ;;
	*" arch "*) formats=archlinux install="pacman -U" ;;
	*)
		echo "build.sh: there is no package for this distribution; 'make release' builds a tarball" >&2
		exit 1
		;;
	esac
fi

mkdir -p "${1:-dist}"
dist=$(cd "${1:-dist}" && pwd)
cd "$(dirname "$0")/.."

# The first entry of the changelog is the only source of the version and the
# date.
entry() { sed -n "s/^[- ] $1: //p" packaging/changelog.yaml | head -n 1; }
full=$(entry semver)
export VERSION="${VERSION:-${full%-*}}" RELEASE="${full##*-}"
SOURCE_DATE_EPOCH=$(date -u -d "$(entry date)" +%s)
export SOURCE_DATE_EPOCH

# Without these, the environment would change the files.
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$dist"/wslmirror[-_]* "$dist/SHA256SUMS"

say() { echo "build.sh: $*" >&2; }

# The tools have a go.mod of their own, so that the product does not depend on
# their modules.
tool() { go tool -modfile=packaging/tools/go.mod "$@"; }

# Packs the files of the Arch package into a tarball.
tarball() {
	name=wslmirror-$VERSION-linux-$ARCH
	mkdir "$work/$name"
	zstd -qdc "$dist"/wslmirror-*-"$1".pkg.tar.zst | tar -xC "$work/$name" --no-same-owner etc usr
	install -D -m 755 packaging/openrc/wslmirror "$work/$name/openrc/wslmirror"
	install -m 644 packaging/INSTALL "$work/$name/INSTALL"
	tar -cC "$work" --format=gnu --sort=name --mtime="@$SOURCE_DATE_EPOCH" \
		--owner=0 --group=0 --numeric-owner "$name" | gzip -9n >"$dist/$name.tar.gz"
}

# Lists the modules that are linked into the program. The checksum of the tool
# is removed, because it depends on the machine that built the tool.
sbom() {
	tool cyclonedx-gomod bin -json -std -noserial -notimestamp -short-purls \
		-version "v$VERSION" "$BUILD/wslmirror" >"$BUILD/sbom"
	sed '/"tools": \[/,/"externalReferences"/{/"hashes": \[/,/\],/d;}' "$BUILD/sbom" \
		>"$dist/wslmirror-$VERSION-linux-$ARCH.cdx.json"
}

for ARCH in $arches; do
	export ARCH BUILD="$work/$ARCH"
	mkdir "$BUILD"
	say "compiling wslmirror $VERSION for $ARCH"
	GOOS=linux GOARCH=$ARCH go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$VERSION" \
		-o "$BUILD/wslmirror" ./cmd/wslmirror
	GOOS=linux GOARCH=$ARCH go build -trimpath -buildvcs=false -tags noplot \
		-ldflags "-s -w -X main.version=$VERSION" \
		-o "$BUILD/mirrorlab" ./cmd/mirrorlab
	gzip -9nc packaging/wslmirror.8 >"$BUILD/wslmirror.8.gz"
	gzip -9nc packaging/wslmirror-json.5 >"$BUILD/wslmirror-json.5.gz"
	gzip -9nc CHANGELOG.md >"$BUILD/changelog.gz"
	for format in $formats; do
		say "packing $format for $ARCH"
		tool nfpm package --config packaging/nfpm.yaml --packager "$format" \
			--target "$dist" >/dev/null
	done
	[ -z "$only" ] || continue
	say "packing the tarball and the list of modules for $ARCH"
	case $ARCH in amd64) tarball x86_64 ;; arm64) tarball aarch64 ;; esac
	sbom
done

cd "$dist"
if [ -n "$only" ]; then
	set -- wslmirror[-_]*
	echo "built $dist/$1; install it with: sudo $install $dist/$1"
else
	sha256sum wslmirror[-_]* | tee SHA256SUMS
fi
