FROM rust:1-slim-bookworm AS build
RUN apt-get update && apt-get install -y --no-install-recommends build-essential cmake && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY Cargo.toml Cargo.lock ./
COPY src src
COPY benches benches
RUN cargo build --locked --release --bin difygate

FROM debian:bookworm-slim
RUN apt-get update && apt-get install -y --no-install-recommends ca-certificates && rm -rf /var/lib/apt/lists/* \
 && useradd --system --uid 10001 --no-create-home difygate
COPY --from=build /src/target/release/difygate /usr/local/bin/difygate
COPY conf/minimal.yaml /etc/difygate/difygate.yaml
# What outlives the process, in ./state.
WORKDIR /var/lib/difygate
RUN chown difygate /var/lib/difygate
USER difygate
EXPOSE 8080
HEALTHCHECK --interval=10s --timeout=6s --start-period=10s CMD ["difygate", "status", "--json"]
ENTRYPOINT ["difygate"]
CMD ["run", "-c", "/etc/difygate/difygate.yaml"]
