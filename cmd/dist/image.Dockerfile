# The adapter as an image, for the images of apps:
#
#	COPY --from=<this image> /lambdaadapter /opt/extensions/lambdaadapter
#
# BuildKit sets TARGETARCH to the architecture that it builds for.
FROM scratch
ARG TARGETARCH
COPY --chmod=0755 ${TARGETARCH}/lambdaadapter /lambdaadapter
ENTRYPOINT ["/lambdaadapter"]
