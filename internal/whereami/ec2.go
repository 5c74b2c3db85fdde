package whereami

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"os"
	"strings"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/feature/ec2/imds"
	smithyhttp "github.com/aws/smithy-go/transport/http"
)

// The categories of instance metadata that are read.
// Source: https://docs.aws.amazon.com/AWSEC2/latest/UserGuide/ec2-instance-metadata.html
const (
	categoryIPv4   = "local-ipv4"
	categoryIPv6   = "ipv6"
	categoryZone   = "placement/availability-zone"
	categoryZoneID = "placement/availability-zone-id"
)

// maxMetadata bounds one value.
const maxMetadata = 1 << 10

// ec2Instance is what the metadata of an instance says about its place.
type ec2Instance struct {
	Addrs        []netip.Addr
	Zone, ZoneID string
}

// askEC2 asks the instance metadata service, version 2, for the primary address
// and the zone. AWS_EC2_METADATA_DISABLED, AWS_EC2_METADATA_SERVICE_ENDPOINT and
// AWS_EC2_METADATA_SERVICE_ENDPOINT_MODE mean what they mean to the AWS SDK.
//
// That there is no such service is no error: most machines are not on EC2.
func askEC2(ctx context.Context) (ec2Instance, error) {
	if strings.EqualFold(os.Getenv("AWS_EC2_METADATA_DISABLED"), "true") {
		return ec2Instance{}, nil
	}
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	web := newEC2Client()
	instance, err := readInstance(ctx, web)
	if err != nil && !web.elsewhere {
		return instance, fmt.Errorf("asking EC2 for this instance's address: %w", err)
	}
	return instance, nil
}

func readInstance(ctx context.Context, web *ec2Client) (ec2Instance, error) {
	var in ec2Instance
	cfg, err := config.LoadDefaultConfig(ctx)
	if err != nil {
		return in, err
	}
	client := imds.NewFromConfig(cfg, func(o *imds.Options) {
		o.Retryer = aws.NopRetryer{}
		o.EnableFallback = aws.FalseTernary // version 1 answers whoever can make this machine ask
		o.HTTPClient = web
	})
	for _, category := range []string{categoryIPv4, categoryIPv6} {
		text, err := read(ctx, client, category)
		if err != nil {
			return in, err
		}
		if addr, ok := dialable(text); ok {
			in.Addrs = append(in.Addrs, addr)
		}
	}
	zone, err := read(ctx, client, categoryZone)
	if err != nil {
		return in, err
	}
	zoneID, err := read(ctx, client, categoryZoneID)
	in.Zone, in.ZoneID = zoneText(zone), zoneText(zoneID)
	return in, err
}

// read returns one value, or nothing if the instance has none.
func read(ctx context.Context, client *imds.Client, category string) (string, error) {
	out, err := client.GetMetadata(ctx, &imds.GetMetadataInput{Path: category})
	if resp, ok := errors.AsType[*smithyhttp.ResponseError](err); ok && resp.HTTPStatusCode() == http.StatusNotFound {
		return "", nil
	}
	if err != nil {
		return "", err
	}
	defer func() { _ = out.Content.Close() }()
	b, err := io.ReadAll(io.LimitReader(out.Content, maxMetadata))
	return string(b), err
}

// ec2Client notices whether this machine is on EC2 at all, which the errors of
// the SDK's client do not tell. It asks no proxy for what is on a link-local
// address.
type ec2Client struct {
	http.Client
	elsewhere bool // nothing is there, or the service of another cloud
}

func newEC2Client() *ec2Client {
	return &ec2Client{Client: http.Client{Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: dialPatience}).DialContext,
		DisableKeepAlives: true,
	}}}
}

func (c *ec2Client) Do(req *http.Request) (*http.Response, error) {
	resp, err := c.Client.Do(req)
	if op, ok := errors.AsType[*net.OpError](err); ok && op.Op == "dial" {
		c.elsewhere = true
	}
	// Every service of version 2 gives tokens, or says that it must not.
	if err == nil && req.Method == http.MethodPut {
		c.elsewhere = resp.StatusCode == http.StatusNotFound || resp.StatusCode == http.StatusMethodNotAllowed
	}
	return resp, err
}
