package lambdaapi

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
)

// The variables that say where the metadata endpoint is and what it wants to be
// told. Where Lambda does not have it, they are not set.
const (
	MetadataVariable      = "AWS_LAMBDA_METADATA_API"
	MetadataTokenVariable = "AWS_LAMBDA_METADATA_TOKEN" //nolint:gosec // a name
)

const metadataPath = "/2026-01-15/metadata/execution-environment"

// ZoneID returns the ID of the availability zone, such as "use1-az1", that this
// execution environment is in. endpoint and token are the values of the two
// variables. After a SnapStart restore it can be another zone.
// Source: https://docs.aws.amazon.com/lambda/latest/dg/configuration-metadata-endpoint.html
func ZoneID(ctx context.Context, endpoint, token string) (string, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+endpoint+metadataPath, nil)
	if err != nil {
		return "", err
	}
	req.Header.Set("Authorization", "Bearer "+token)
	// The endpoint is on a link-local address, where no proxy leads.
	client := http.Client{Transport: &http.Transport{DialContext: new(net.Dialer).DialContext, DisableKeepAlives: true}}
	resp, err := client.Do(req)
	if err != nil {
		return "", err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return "", &Error{Op: "GET " + metadataPath, Status: resp.StatusCode}
	}
	var said struct{ AvailabilityZoneID string }
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxErrorBody)).Decode(&said); err != nil {
		return "", fmt.Errorf("reading GET %s: %w", metadataPath, err)
	}
	return said.AvailabilityZoneID, nil
}
