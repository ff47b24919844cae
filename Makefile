# The commands of this repository. "make help" lists them.

# sudo often leaves Go out of root's PATH.
export PATH := $(PATH):/usr/local/go/bin:/usr/lib/go/bin
GO ?= go
# The tools have a go.mod of their own, so that the product does not need their
# modules.
TOOL := $(GO) tool -modfile=packaging/tools/go.mod
VERSION := $(shell sed -n 's/^- semver: \([^-]*\).*/\1/p' packaging/changelog.yaml | head -n 1)
LDFLAGS := -s -w -X main.version=$(VERSION)

.PHONY: help
help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | expand -t 12

.PHONY: build
build: ## build bin/wslmirror and bin/mirrorlab
	CGO_ENABLED=0 $(GO) build -trimpath -ldflags "$(LDFLAGS)" -o bin/ ./cmd/...

.PHONY: demo
demo: build ## see the fault, the cure, and the fault again (root)
	@bin/mirrorlab demo

.PHONY: recording
recording: ## record the demo for README.md, as docs/demo.svg (root)
	$(GO) test ./cmd/mirrorlab -run Recording -count 1 -update

.PHONY: quick
quick: lint ## the tests that need no root, in less than a minute
	CI= $(GO) test -short -vet=off ./... # it may skip what CI must not

.PHONY: test
test: deps lint ## all tests (root); installs the Debian packages they need
	$(GO) test -race -vet=off -timeout 60m ./...

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, actionlint
	@test -z "$$(gofmt -l . | tee -a /dev/stderr)"
	$(GO) vet -tags clock,vm ./...
	$(TOOL) staticcheck -tags clock,vm ./...
	$(TOOL) actionlint -shellcheck= -pyflakes= .github/workflows/*.yml

.PHONY: bench
bench: deps ## measure the daemon (root)
	$(GO) test -run '^$$' -bench . ./...

.PHONY: speed
speed: deps build ## measure the paths to a container, for docs/performance.md (root, ten minutes)
	bin/mirrorlab bench --svg cmd/mirrorlab/bench.svg --readme docs/performance.md

FUZZTIME ?= 10m

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME, 10 minutes if not given
	@.ci/fuzz $(FUZZTIME)

.PHONY: footprint
footprint: deps build ## print what the idle daemon costs (root, a minute)
	@.ci/footprint

.PHONY: chaos
chaos: deps build ## break everything, 10000 times, and see it heal (root, a quarter of an hour)
	bin/mirrorlab chaos --steps 10000 --worlds 2 --rest 700ms

.PHONY: soak
soak: deps build ## a storm, then churn and load for FOR=30m; and leaks (root)
	bin/mirrorlab soak --for $(or $(FOR),30m)
	$(GO) test ./internal/mirror -run NothingLeaks -timeout 30m -v -cycles $(or $(CYCLES),100000)

.PHONY: vm
vm: deps ## boot other kernels (KERNELS=part of a name: only these), and write docs/kernels.md (root, two hours)
	@.ci/deps make flex bison bc xz-utils libelf-dev # to build one
	WSLMIRROR_KERNELS=all $(GO) test -tags vm ./internal/vm -run 'Kernels/boot/$(KERNELS)$(if $(KERNELS),,|Reboot|Swarm)' -v -timeout 6h -update

.PHONY: package
package: ## build the package for this machine into dist
	packaging/build.sh --package dist

.PHONY: release packages
release: ## build all that a release consists of into dist
	packaging/build.sh dist
packages: release

.PHONY: notes
notes: ## print the release notes of the tag TAG
	@.ci/notes "$(VERSION)" "$$TAG"

.PHONY: deps
deps: ## install the Debian packages that the tests need (root)
	@.ci/deps

.PHONY: clean
clean: ## remove what was built
	rm -rf bin dist
