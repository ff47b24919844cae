#!/bin/sh
# Builds the packages, deb and rpm for amd64 and arm64, and prints their
# checksums:
#
#     packaging/build.sh [DIR]
#
# DIR is dist by default. The same source and the same Go give the same bytes,
# anywhere and at any time. VERSION=1.2.3 in the environment builds another
# version than changelog.yaml's, to try an upgrade.
set -eu

mkdir -p "${1:-dist}"
dist=$(cd "${1:-dist}" && pwd)
cd "$(dirname "$0")/.."

# The first entry of the changelog is the one place of the version and the date.
entry() { sed -n "s/^[- ] $1: //p" packaging/changelog.yaml | head -n 1; }
full=$(entry semver)
export VERSION="${VERSION:-${full%-*}}" RELEASE="${full##*-}"
SOURCE_DATE_EPOCH=$(date -u -d "$(entry date)" +%s)
export SOURCE_DATE_EPOCH

# What else of the surroundings would be in the packages.
export LC_ALL=C TZ=UTC CGO_ENABLED=0 GOAMD64=v1 GOARM64=v8.0
umask 022

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
rm -f "$dist"/wslmirror*.deb "$dist"/wslmirror*.rpm "$dist/SHA256SUMS"

# nfpm is pinned in a go.mod of its own: none of what it needs is in the
# product's.
nfpm() { go tool -modfile=packaging/tools/go.mod nfpm "$@"; }

for ARCH in amd64 arm64; do
	export ARCH BUILD="$work/$ARCH"
	mkdir "$BUILD"
	GOOS=linux GOARCH=$ARCH go build -trimpath -buildvcs=false \
		-ldflags "-s -w -X main.version=$VERSION" \
		-o "$BUILD/wslmirror" ./cmd/wslmirror
	GOOS=linux GOARCH=$ARCH go build -trimpath -buildvcs=false -tags noplot \
		-ldflags "-s -w -X main.version=$VERSION" \
		-o "$BUILD/mirrorlab" ./cmd/mirrorlab
	gzip -9nc packaging/wslmirror.8 >"$BUILD/wslmirror.8.gz"
	gzip -9nc CHANGELOG.md >"$BUILD/changelog.gz"
	for format in deb rpm; do
		nfpm package --config packaging/nfpm.yaml --packager $format \
			--target "$dist" >/dev/null
	done
done

cd "$dist"
sha256sum wslmirror*.deb wslmirror*.rpm | tee SHA256SUMS
