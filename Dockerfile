# syntax=docker/dockerfile:1
# The driver's image. Builds with BuildKit (docker buildx, buildah, podman):
#   docker buildx build --build-arg GIT_SHA=$(git rev-parse --short=12 HEAD) -t REGISTRY/nifcloud-additional-storage-csi:v0.1.0 .
# --target node (the default, last): driver, tools for file systems, roots of certificates; no shell, no package manager.
# --target controller: driver and roots of certificates only, for controllers that need no emulator.
# Arguments and the SBOM: docs/en/install.md.
ARG RUST_IMAGE=rust:1.95.0-slim-bookworm
# The release whose tools deploy/image/contents.txt names.
ARG DEBIAN_IMAGE=debian:12-slim

FROM ${RUST_IMAGE} AS build
ARG TARGETARCH
ARG GIT_SHA=unknown
# Crates become part of the SBOM: they are in the binary, where a scanner of the image cannot see them.
ARG BUILDKIT_SBOM_SCAN_STAGE=true
ARG BUILDKIT_SBOM_SCAN_CONTEXT=true
RUN apt-get update && apt-get install -y --no-install-recommends musl-tools && rm -rf /var/lib/apt/lists/*
WORKDIR /src
COPY rust-toolchain.toml Cargo.toml Cargo.lock build.rs ./
COPY proto proto
COPY src src
# Cargo.toml names the benchmark and the fuzz targets' neighbours; they are not built.
COPY benches benches
COPY tests tests
COPY examples examples
RUN --mount=type=cache,target=/usr/local/cargo/registry --mount=type=cache,target=/src/target \
    case "${TARGETARCH:-amd64}" in amd64) arch=x86_64 ;; arm64) arch=aarch64 ;; *) echo "no build for $TARGETARCH" >&2; exit 1 ;; esac \
    && target=$arch-unknown-linux-musl \
    && rustup target add "$target" \
    && GIT_SHA=$GIT_SHA cargo build --release --locked --bin nifcloud-additional-storage-csi --target "$target" \
    && cp "target/$target/release/nifcloud-additional-storage-csi" /nifcloud-additional-storage-csi

FROM ${DEBIAN_IMAGE} AS tools
COPY deploy/image /image
RUN apt-get update \
    && apt-get install -y --no-install-recommends $(/image/gather.sh packages) \
    && /image/gather.sh /rootfs \
    # Mount points of the manifests; the root file system is read-only.
    && mkdir -p /rootfs/csi /rootfs/keys /rootfs/dev /rootfs/proc /rootfs/sys /rootfs/run /rootfs/var/lib/kubelet \
    && mkdir -m 1777 /rootfs/tmp

FROM scratch AS controller
COPY --from=tools /rootfs/etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/ca-certificates.crt
COPY --from=build /nifcloud-additional-storage-csi /nifcloud-additional-storage-csi
USER 65532:65532
ENTRYPOINT ["/nifcloud-additional-storage-csi"]

# Root, because the node plugin mounts; the controller's manifest sets its own user.
FROM scratch AS node
COPY --from=tools /rootfs/ /
COPY --from=build /nifcloud-additional-storage-csi /nifcloud-additional-storage-csi
LABEL org.opencontainers.image.title="nifcloud-additional-storage-csi" \
      org.opencontainers.image.licenses="Apache-2.0"
ENTRYPOINT ["/nifcloud-additional-storage-csi"]
