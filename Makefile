# The commands of the project. `make demo` and `make test` are where to begin; README.md tells the rest.
# An ordinary user in a fresh clone needs Rust, a C compiler and make; nothing here touches the network,
# save rustup's musl target (once, if it is not there) and `make vendor`.

CARGO ?= cargo
PREFIX ?= /usr/local
DESTDIR ?=
BINDIR = $(DESTDIR)$(PREFIX)/bin
SHAREDIR = $(DESTDIR)$(PREFIX)/share
# Where `make dist` puts the archive, and what it is called.
DIST ?= dist
VERSION = $(shell sed -n 's/^version = "\(.*\)"/\1/p' Cargo.toml | head -n 1)
NAME = ch-image-$(VERSION)
# Of what architectures: this machine's, and aarch64 where there is a compiler for it.
ARCHS = $(shell uname -m) $(shell [ "$$(uname -m)" = aarch64 ] || ! command -v aarch64-linux-gnu-gcc >/dev/null || echo aarch64)
# The program's other names.
LINKS = ch-run ch-convert ch-builder2tar ch-builder2squash ch-tar2dir ch-dir2squash

SOURCES = $(shell find src -name '*.rs' -o -name '*.txt') Cargo.toml Cargo.lock .cargo/config.toml tests/tools/static.sh

# Tests unpack real images: our own code has to be optimised a little for that. (Plain `cargo test` compiles faster.)
# What they make has the modes that they look for.
test check: export CARGO_PROFILE_DEV_OPT_LEVEL = 1

.DELETE_ON_ERROR:
.PHONY: all help test check fmt clippy vendor-clean vendor install dist sbom demo bench clean

all: ch-image ch-run ## build the static binary ./ch-image, with ./ch-run beside it

# What `ch-image --version -v` says.
ch-image dist-%: export CH_IMAGE_COMMIT = $(shell git rev-parse HEAD 2>/dev/null)

ch-image: $(SOURCES)
	@CARGO="$(CARGO)" tests/tools/static.sh $@

ch-run:
	ln -sf ch-image $@

help: ## list these commands
	@sed -n 's/^\([a-z-]*\):.*## /\1	/p' $(MAKEFILE_LIST) | expand -t 16

test: ## run all tests (what a machine lacks is skipped, visibly)
	umask 022 && $(CARGO) test --offline --locked

# A skip is a failure here, unless CH_TEST_MUST_RUN=0 is said.
check: fmt clippy ## what must pass before a commit: format, lints, tests, static build, vendored crates
	umask 022 && CH_TEST_MUST_RUN=$${CH_TEST_MUST_RUN:-1} $(CARGO) test --offline --locked
	$(MAKE) all
	$(MAKE) vendor-clean

fmt:
	$(CARGO) fmt --check

clippy:
	$(CARGO) clippy --offline --locked --all-targets -- -D warnings

# The contents are checked against the checksums by a test (tests/it/tidy.rs); this looks for stray files.
vendor-clean:
	@if [ -e .git ]; then stray=$$(git status --porcelain --ignored -- vendor) || exit 1; \
	if [ -n "$$stray" ]; then echo "vendor/ is not clean:"; echo "$$stray"; exit 1; fi; fi

# From another directory, so that .cargo/config.toml does not make cargo look for crates in vendor/ itself.
vendor: ## fetch the crates of Cargo.lock anew (needs the network and cargo-vendor-filterer)
	rm -rf target/vendor && mkdir -p target/vendor
	cd / && $(CARGO) vendor-filterer --manifest-path "$(CURDIR)/Cargo.toml" "$(CURDIR)/target/vendor/new"
	rm -rf vendor && mv target/vendor/new vendor

install: all ## install to PREFIX (default /usr/local), below DESTDIR if given
	install -d "$(BINDIR)"
	install -m 755 ch-image "$(BINDIR)/ch-image"
	@for name in $(LINKS); do ln -sf ch-image "$(BINDIR)/$$name"; done
	tests/tools/pages.sh ./ch-image "$(SHAREDIR)"

dist: $(ARCHS:%=dist-%) ## make the release archives in dist/ (static musl only)

# The pages come from this machine's own binary: that of another architecture does not run here.
dist-%: all
	@mkdir -p "$(DIST)/$(NAME)-$*"
	@CARGO="$(CARGO)" tests/tools/static.sh --musl --arch $* "$(DIST)/$(NAME)-$*/ch-image"
	@for name in $(LINKS); do ln -sf ch-image "$(DIST)/$(NAME)-$*/$$name"; done
	tests/tools/pages.sh ./ch-image "$(DIST)/$(NAME)-$*/share"
	cp README.md CHANGELOG.md LICENSE "$(DIST)/$(NAME)-$*"
	tar -C "$(DIST)" --sort=name --owner=0 --group=0 --numeric-owner -czf "$(DIST)/$(NAME)-$*.tar.gz" "$(NAME)-$*"
	cd "$(DIST)" && sha256sum "$(NAME)-$*.tar.gz" >"$(NAME)-$*.tar.gz.sha256"

sbom: all ## write the software bill of materials (CycloneDX) to ch-image.cdx.json
	./ch-image --generate sbom >ch-image.cdx.json

demo: all ## the main job in a minute: base image from this machine, build, list, run, build again
	tests/demo/demo.sh

bench: all ## measure against whatever peers are installed
	tests/bench/bench.sh
	tests/bench/force.sh
	tests/bench/packed.sh
	tests/bench/export.sh

clean: ## remove what was built
	$(CARGO) clean
	rm -rf ch-image ch-run ch-image.cdx.json dist
