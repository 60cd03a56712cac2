# Everything that a developer does here. `make` alone explains the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo dev)
LDFLAGS := -s -w -X main.version=$(VERSION)
GOTOOL  := go tool -modfile=hack/tools/go.mod

# The tests mount tmpfs. As an ordinary user they run in a user namespace,
# where the kernel allows that; what needs other users' ids is then skipped.
AS_ROOT := $(shell [ "$$(id -u)" = 0 ] || echo unshare --user --map-root-user --mount)

.PHONY: help
help: ## Explain the targets
	@echo "Mayfly: a pod's secrets as files in tmpfs, refreshed in place."
	@echo
	@awk 'BEGIN {FS = ":.*## "} /^[a-z0-9-]+:.*## / {printf "  make %-14s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

.PHONY: build
build: ## Build bin/mayfly-node, bin/kubectl-mayfly and bin/mayfly-kms, static binaries
	CGO_ENABLED=0 go build -trimpath -tags grpcnotrace -ldflags '$(LDFLAGS)' -o bin/ ./cmd/...

.PHONY: demo
demo: ## Watch a real Vault's secret arrive in a volume, rotate in place and go
	@go run ./test/demo

.PHONY: vaultd
vaultd: ## Build the real Vault that the tests use (once, some minutes)
	@go run ./test/toolcache/cmd/toolcache vaultd >/dev/null

.PHONY: test
test: vaultd ## Run all tests: unit, fuzz seeds, CSI sanity, real Vault and tmpfs, race detector on
	cd hack/image && go test ./...
	cd hack/dashboard && go test ./...
	$(AS_ROOT) go test -race -timeout 30m ./...

.PHONY: lifetimes
lifetimes: vaultd ## Run the tests that live as long as real credentials do: minutes
	$(AS_ROOT) go test -race -tags lifetimes -count 1 -timeout 20m -run TestLifetime ./pkg/provider/vault ./pkg/kms/...

.PHONY: e2e
e2e: ## Run the suite on a real node: kubelet, API server, containerd (as root; builds Kubernetes once)
	$(if $(AS_ROOT),$(error make e2e needs root: it runs containerd and kubelet))
	go vet -tags e2e ./test/...
	go test -tags e2e -count 1 -timeout 10m ./test/secretsync
	go test -tags e2e -count 1 -timeout 10m ./test/bench -run RealAPIServer
	go test -tags e2e -count 1 -timeout 40m ./test/node
	go test -tags e2e -count 1 -timeout 30m -v ./test/e2e

.PHONY: kms
kms: vaultd ## Test encryption at rest and the audit policy on real parts: API servers, etcd, Vault (as root; some 7 minutes)
	$(if $(AS_ROOT),$(error make kms needs root: each API server has a host name of its own))
	go test -tags e2e -count 1 -timeout 15m -parallel 4 -v ./test/kmscluster
	go test -tags e2e -count 1 -timeout 10m -v ./test/apiaudit

.PHONY: crash
crash: vaultd ## Kill the driver CRASHES times (default 2000) under a reader's eyes
	MAYFLY_CRASHES=$${CRASHES:-2000} $(AS_ROOT) go test -count 1 -timeout 60m -run TestKilledAtAnyInstant -v ./test/crash

.PHONY: fuzz
fuzz: ## Run every fuzz target for FUZZTIME (default 20s)
	@hack/fuzz.sh $${FUZZTIME:-20s}

.PHONY: bench
bench: vaultd ## Measure the driver against the bare work on a real Vault
	@go run ./test/bench

.PHONY: bench-short
bench-short: vaultd ## The same in a short form, as CI runs it
	@go run ./test/bench --short

.PHONY: bench-real
bench-real: vaultd ## The same with a real API server and etcd (builds Kubernetes once)
	@go run ./test/bench --real-api-server

.PHONY: bench-kms
bench-kms: vaultd ## Measure mayfly-kms: requests to Vault, memory, the time of a Status (as root)
	$(if $(AS_ROOT),$(error make bench-kms needs root: each API server has a host name of its own))
	go test -count 1 -v -run TestIdleRequests ./pkg/kms/plugin
	go test -tags e2e -count 1 -v -run TestCount ./test/kmscluster

.PHONY: hostile
hostile: vaultd ## Attack the driver as one tenant in every way at once, beside another (as root)
	@go run ./test/hostile

.PHONY: hostile-short
hostile-short: vaultd ## The same in a short form, as CI runs it
	@go run ./test/hostile --short

.PHONY: lint
lint: ## gofmt, go vet, staticcheck, tidy modules, generated files
	@hack/lint.sh

.PHONY: shape
shape: ## Print figures about the structure of the driver's code
	@go run ./hack/shape

.PHONY: generate
generate: ## Regenerate deep copies, CRDs, protobuf, chart references, deploy/
	@hack/generate.sh
	@hack/generate-proto.sh
	cd hack/dashboard && go run . >dashboard.json && mv dashboard.json ../../charts/mayfly/files/
	go test ./test/chart ./cmd/mayfly-node ./pkg/kms/cli -update >/dev/null
	go run ./hack/picture >docs/how-it-works.svg
	@hack/render.sh

.PHONY: dashboard-picture
dashboard-picture: ## Make docs/dashboard.png on a real node, with Prometheus and Chromium (as root; some 6 minutes)
	$(if $(AS_ROOT),$(error make dashboard-picture needs root: it runs containerd and kubelet))
	go test -tags e2e -count 1 -timeout 20m -v ./test/e2e -run TestPicture -args -picture=$(CURDIR)/docs/dashboard.png

.PHONY: verify
verify: ## Check that the generated files match their sources
	@hack/verify-generated.sh

.PHONY: vuln
vuln: ## Look for known vulnerabilities (needs the network: vuln.go.dev)
	$(GOTOOL) govulncheck ./...

.PHONY: image
image: ## Build dist/: OCI images for amd64 and arm64 without Docker, and their SBOMs
	cd hack/image && go run . && go run . --program mayfly-kms

.PHONY: archives
archives: ## Build dist/archives/: kubectl-mayfly for every platform, and krew's manifest
	rm -rf dist/archives
	SOURCE_DATE_EPOCH=$$(git log -1 --format=%ct) go run ./hack/archive --version "$$(sed -n 's/^version: //p' charts/mayfly/Chart.yaml)" --out dist/archives

.PHONY: release
release: ## Build dist/VERSION/ of the tag at HEAD: notes, image, SBOMs, chart, plugin, checksums (RELEASE_REHEARSAL=1 without a tag)
	@hack/release.sh

.PHONY: clean
clean: ## Remove what was built here; cached test tools stay
	rm -rf bin dist
