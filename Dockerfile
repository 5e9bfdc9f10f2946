# syntax=docker/dockerfile:1
# docker build -t tenantry .
# docker run --rm --env-file production.env tenantry migrate up
# docker run --env-file production.env -p 8080:8080 tenantry

FROM rust:1.95-slim-bookworm AS build
# npm fetches GraphiQL, which is then embedded in the binary.
RUN apt-get update \
    && apt-get install --yes --no-install-recommends npm \
    && rm -rf /var/lib/apt/lists/*
WORKDIR /build
# The checked queries come from .sqlx: a build needs no database. An image without its own GraphiQL is not built.
ENV SQLX_OFFLINE=true TENANTRY_GRAPHIQL=embed CARGO_TERM_COLOR=never
# Tests and benches come along because Cargo.toml names them; they are not compiled.
COPY . .
# The caches keep downloaded and compiled dependencies between builds on one builder. In a checkout an older file may
# replace a newer one, which cargo's comparison of times misses: touch makes it compile this crate anew.
RUN --mount=type=cache,target=/usr/local/cargo/registry,sharing=locked \
    --mount=type=cache,target=/build/target,sharing=locked \
    touch build.rs src/lib.rs src/main.rs \
    && cargo build --profile dist --locked --bin tenantry \
    && cp target/dist/tenantry /tenantry

# glibc, libgcc and CA certificates of the same Debian as above; no shell, no package manager, uid 65532.
FROM gcr.io/distroless/cc-debian12:nonroot
COPY --from=build /tenantry /usr/local/bin/tenantry
ENV TENANTRY_ENV=production HOST=:: PORT=8080
EXPOSE 8080
STOPSIGNAL SIGTERM
# No HEALTHCHECK: it would need a program in the image to run. Hosts probe GET /healthz and GET /readyz from outside.
ENTRYPOINT ["/usr/local/bin/tenantry"]
CMD ["serve"]
