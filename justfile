# The tasks of this repository: `just` lists them, and `.ci/run` runs them.

triple := `rustc -vV | sed -n 's/^host: //p'`
target := env("CARGO_TARGET_DIR", justfile_directory() / "target")
programs := target / triple / "release"

_list:
    @just --list --unsorted

# Formatting
fmt:
    cargo fmt --all --check

# Lints
clippy:
    cargo clippy --workspace --all-targets -- -D warnings

# Links in the documentation of all code, private items too
docs:
    RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" \
        cargo doc --workspace --no-deps --document-private-items --all-features

# Licences, sources and bans of dependencies
policy:
    cargo deny --log-level error check bans licenses sources

# Known vulnerabilities of dependencies
advisories:
    .ci/advisories

# Dependencies that nothing uses
unused:
    cargo machete

# All of the above
lint: fmt clippy docs policy advisories unused

# The product, and the programs of tests and benches: one static build, which everything below takes
build:
    RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --workspace --bins --target {{triple}}

# All tests that need no cluster
test *ARGS:
    cargo test --workspace {{ARGS}}

# Fuzz targets, all or those named, for SECONDS_EACH (10) seconds
fuzz *TARGETS:
    tests/fuzz/run {{TARGETS}}

# Two clusters with real agents on this machine
demo *ARGS: build
    {{programs}}/adit demo {{ARGS}}

# Many streams while peers are killed and cables cut
soak *ARGS: build
    {{programs}}/soak {{ARGS}}

# A linked cluster that attacks, at full size
hostile *ARGS: build
    {{programs}}/hostile {{ARGS}}

# Agents and clients of other projects' SDKs
e2e *ARGS: build
    ADIT_BIN={{programs}}/adit tests/e2e/run {{ARGS}}
    ADIT_BIN={{programs}}/adit tests/e2e/events/run

# Adit beside direct TCP and haproxy
bench *ARGS: build
    {{programs}}/adit-benches {{ARGS}}

# The container image, as an archive
image *ARGS: build
    daemonset/image/build --binary {{programs}}/adit --output {{target}}/adit.tar {{ARGS}}

# Everything that a release consists of, in the folder `dist`
dist *ARGS: build
    daemonset/dist/build --binary {{programs}}/adit {{ARGS}}

# The same, held to its word
release: build
    tests/dist/run {{programs}}/adit

# The Helm chart, held to the manifests
chart:
    tests/chart/run

# Alerts and dashboards, held to their word by Prometheus' own tools
monitoring:
    tests/monitoring/run

# The manifests on a real cluster: ADIT_RIG names the program that makes it, or ADIT_CONTEXTS one of yours
manifests *ARGS: image
    ADIT_BIN={{programs}}/adit ADIT_IMAGE={{target}}/adit.tar tests/rig/manifests {{ARGS}}

# Two real clusters, likewise
clusters *ARGS: image
    ADIT_BIN={{programs}}/adit ADIT_IMAGE={{target}}/adit.tar tests/rig/run {{ARGS}}

# Two kind clusters, without a registry of images: ADIT_RIG names the folder of Kubernetes' programs
kind *ARGS: build
    ADIT_BIN={{programs}}/adit tests/kind/run {{ARGS}}
