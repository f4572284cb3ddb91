# The commands of this checkout; `make` lists them. Each works as the first one typed.

SHELL := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := help

# Outside the checkout, so that a clean clone builds fast.
CARGO_TARGET_DIR ?= $(HOME)/.cache/s3pod/target
export CARGO_TARGET_DIR

VENV := .venv
REQUIREMENTS := tests/testkit/requirements.txt

.PHONY: help demo test bench lint docs soak image tools setup deny clean

help: ## list the commands
	@sed -n 's/^\([a-z]*\):.*## \(.*\)/  make \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: ## a bucket mounted as files, in one command (KEEP=1 stays mounted)
	@.ci/setup compiler
	cargo build --release --bin s3pod --example quickstart
	@"$$CARGO_TARGET_DIR/release/examples/quickstart"

test: setup ## every test
	.ci/test

bench: setup ## measure the mount beside what is possible; the result goes into docs/performance.md
	@.ci/setup fio
	cargo bench --workspace --bench pure
	cargo bench --workspace --bench mount

lint: ## formatting, clippy with warnings denied, the floors of the house
	@.ci/setup compiler
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cargo test --quiet --test tidy

docs: ## write the generated pages anew
	@.ci/setup compiler
	UPDATE=1 cargo test --quiet --lib the_committed_page_is_current

soak: setup ## the long forms of the suites; the result goes into tests/soak.txt
	.ci/soak

image: ## the container image, by the Docker engine (IMAGE=name)
	@.ci/setup compiler python
	@.ci/image

tools:
	@.ci/setup compiler python programs suites

setup: tools $(VENV)/installed ## install what the tests need and is missing

$(VENV)/installed: $(REQUIREMENTS) | tools
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --disable-pip-version-check --no-input --requirement $(REQUIREMENTS)
	touch $@

deny: ## licences, advisories and doubles among the dependencies
	@cargo deny --version >/dev/null 2>&1 \
	  || { echo "deny: cargo-deny is missing: cargo install cargo-deny --locked" >&2; exit 1; }
	cargo deny check

clean: ## remove what the build made
	cargo clean
	rm -rf $(VENV)
