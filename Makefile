# The commands of this repository. Each is a short script or one line; `make` alone lists them.

.DEFAULT_GOAL := help
.PHONY: help run test bench fuzz docs fmt settings clean

help: ## List these targets
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{ printf "  make %-9s %s\n", $$1, $$2 }'

run: ## Relay, agent and demo app on this machine, with links to try; Ctrl-C ends all of it
	@deploy/demo/run.sh

test: ## Everything that must hold: format, lints, builds, tests, docs
	@deploy/scripts/test.sh

bench: ## Compare side by side with others and write benches/RESULTS.md
	@deploy/scripts/bench.sh

fuzz: ## Run every fuzz target for FUZZ_SECONDS (30) each
	@deploy/scripts/fuzz.sh

docs: ## Build the API documentation into target/doc; warnings are errors
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" cargo doc --workspace --no-deps

fmt: ## Format all Rust code
	cargo fmt --all
	cargo fmt --manifest-path fuzz/Cargo.toml

settings: ## Write the relay's settings and metrics into the tables of README.md
	@deploy/scripts/settings.sh

clean: ## Remove what was built
	cargo clean
