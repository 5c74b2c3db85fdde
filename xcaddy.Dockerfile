# syntax=docker/dockerfile:1

# The router: Caddy with the lambda_dispatch module, built from this checkout.
#
#	docker build -f xcaddy.Dockerfile -t lambda-dispatch-router .
#	docker build -f xcaddy.Dockerfile -t lambda-dispatch-router --platform linux/arm64 .
#
# It compiles on the machine's own architecture for any other, so neither needs
# emulation. The Caddyfile is the text of the variable CADDYFILE, which suits ECS;
# or mount or copy one to /etc/caddy/Caddyfile.

ARG GO_VERSION=1.26
ARG ALPINE_VERSION=3
ARG CADDY_VERSION=v2.11.9
ARG XCADDY_VERSION=v0.4.5

FROM --platform=$BUILDPLATFORM golang:${GO_VERSION}-alpine AS build
ARG CADDY_VERSION
ARG XCADDY_VERSION
ARG TARGETOS
ARG TARGETARCH
RUN apk add --no-cache ca-certificates git
RUN go install github.com/caddyserver/xcaddy/cmd/xcaddy@${XCADDY_VERSION}
WORKDIR /src
COPY go.mod go.sum ./
RUN go mod download
COPY . .
RUN CGO_ENABLED=0 GOOS=${TARGETOS} GOARCH=${TARGETARCH} \
    xcaddy build ${CADDY_VERSION} \
    --with github.com/lambda-dispatch/lambda-dispatch@v0.0.0=/src \
    --output /out/caddy
RUN mkdir -p /out/config /out/data

# Nothing runs in this stage, so that it needs no emulation either. Alpine is
# there for the health check's wget.
FROM alpine:${ALPINE_VERSION}
COPY --from=build /etc/ssl/certs/ca-certificates.crt /etc/ssl/certs/
COPY --from=build /out/caddy /usr/bin/caddy
COPY deploy/Caddyfile /etc/caddy/Caddyfile
# Caddy writes certificates and its last configuration below these two.
COPY --from=build --chown=65532:65532 /out/config /config
COPY --from=build --chown=65532:65532 /out/data /data
ENV XDG_CONFIG_HOME=/config XDG_DATA_HOME=/data
USER 65532:65532
# 8080: clients. 7443: callbacks of instances.
EXPOSE 8080 7443
# Asks Caddy's admin endpoint, which is the same whatever the Caddyfile serves.
# ECS does not look at this; there the load balancer checks the site.
HEALTHCHECK --interval=10s --timeout=3s --start-period=10s \
    CMD ["wget", "-q", "-T", "2", "-O", "/dev/null", "http://127.0.0.1:2019/metrics"]
ENTRYPOINT ["/usr/bin/caddy"]
CMD ["run", "--config", "/etc/caddy/Caddyfile", "--adapter", "caddyfile"]
