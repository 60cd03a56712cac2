# syntax=docker/dockerfile:1
# The image of hack/image for those who build with Docker; it holds the same
# files. VERSION is the driver's version.
#
#   docker build --build-arg VERSION=0.1.0 --tag mayfly-node:0.1.0 .
FROM --platform=$BUILDPLATFORM golang:1.26 AS build
WORKDIR /src
COPY . .
ARG VERSION=dev
ARG TARGETOS=linux
ARG TARGETARCH
RUN --mount=type=cache,target=/root/.cache/go-build --mount=type=cache,target=/go/pkg/mod \
    cd hack/image && go run . --rootfs /rootfs --version "$VERSION" \
      --platforms "$TARGETOS/${TARGETARCH:-$(go env GOARCH)}"

FROM scratch
COPY --from=build /rootfs/ /
# root, for mount(2). The chart drops all but three capabilities.
USER 0:0
ENTRYPOINT ["/mayfly-node"]
