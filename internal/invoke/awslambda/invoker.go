// Package awslambda invokes the function through the AWS SDK. The local Lambda
// speaks the same API, so this is the router's only invoker. It makes one call
// per Invoke and says how it failed; whether and when to try again is the
// scaler's business, so it must not retry, queue or back off by itself.
package awslambda

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"net/http"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/lambda"

	"github.com/lambda-dispatch/lambda-dispatch/internal/invoke"
)

const (
	// An invocation is silent for up to 15 minutes, while NAT gateways and
	// load balancers forget a connection after 350 s without a packet.
	keepAliveIdle     = 60 * time.Second
	keepAliveInterval = 30 * time.Second
	keepAliveCount    = 4

	dialTimeout = 10 * time.Second
	// Idle connections are kept for the next start of an instance.
	idleConnsPerHost = 16
)

// Options says which function to invoke, and where. Everything that is empty
// comes from the usual AWS places: environment variables, the shared
// configuration files, and the role of the ECS task or EC2 instance.
type Options struct {
	// Function is a name, name:qualifier, or ARN.
	Function string
	// Region is the AWS region. Default: from the environment.
	Region string
	// Endpoint is the base URL of the Invoke API. Default: Lambda's in Region.
	Endpoint string
	// Anonymous signs with dummy credentials, for the local Lambda.
	Anonymous bool
}

// Invoker invokes one function. It implements [invoke.Invoker].
type Invoker struct {
	function string
	client   *lambda.Client
	// For hints: where the client looks for it, and whether that is the local
	// Lambda.
	region      string
	hasEndpoint bool
	local       bool
}

// New returns an invoker. It reads the AWS configuration but makes no call.
func New(ctx context.Context, o Options) (*Invoker, error) {
	load := []func(*config.LoadOptions) error{
		config.WithHTTPClient(newHTTPClient()),
		// The scaler decides when to try again, with the whole pool in view.
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if o.Anonymous {
		load = append(load, config.WithCredentialsProvider(
			credentials.NewStaticCredentialsProvider("local", "local", "")))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("loading AWS configuration: %w", err)
	}
	if cfg.Credentials != nil {
		cfg.Credentials = markedCredentials{cfg.Credentials}
	}
	client := lambda.NewFromConfig(cfg, func(lo *lambda.Options) {
		if o.Endpoint != "" {
			lo.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	return &Invoker{
		function: o.Function, client: client,
		region: cfg.Region, hasEndpoint: o.Endpoint != "", local: o.Anonymous,
	}, nil
}

// For returns an invoker of another function, which shares connections and
// credentials with this one.
func (iv *Invoker) For(function string) *Invoker {
	other := *iv
	other.function = function
	return &other
}

// newHTTPClient returns a client that never gives up on an open invocation:
// only dialling has a timeout, because any other would have to be longer than
// the function's, which the router does not know.
func newHTTPClient() *awshttp.BuildableClient {
	return awshttp.NewBuildableClient().
		WithDialerOptions(func(d *net.Dialer) {
			d.Timeout = dialTimeout
			d.KeepAliveConfig = net.KeepAliveConfig{
				Enable:   true,
				Idle:     keepAliveIdle,
				Interval: keepAliveInterval,
				Count:    keepAliveCount,
			}
		}).
		WithTransportOptions(func(t *http.Transport) {
			// One connection an invocation: over HTTP/2 a single broken
			// connection would lose the results of all of them.
			t.Protocols = new(http.Protocols)
			t.Protocols.SetHTTP1(true)
			t.ForceAttemptHTTP2 = false
			t.MaxIdleConnsPerHost = idleConnsPerHost
			t.ResponseHeaderTimeout = 0
		})
}

// Invoke implements [invoke.Invoker].
func (iv *Invoker) Invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	res, err := iv.invoke(ctx, ev)
	if failed, ok := errors.AsType[*invoke.Error](err); ok {
		failed.Hint = iv.hint(failed)
	}
	return res, err
}

func (iv *Invoker) invoke(ctx context.Context, ev invoke.Event) (invoke.Result, error) {
	payload, err := json.Marshal(ev)
	if err != nil {
		return invoke.Result{}, fmt.Errorf("encoding dispatch event: %w", err)
	}
	out, err := iv.client.Invoke(ctx, &lambda.InvokeInput{
		FunctionName: aws.String(iv.function),
		Payload:      payload,
	})
	if err != nil {
		if ctx.Err() != nil {
			return invoke.Result{}, ctx.Err()
		}
		return invoke.Result{}, classify(err)
	}
	if out.FunctionError != nil {
		return invoke.Result{}, functionError(out.Payload)
	}
	res, err := invoke.ParseResult(out.Payload)
	if err != nil {
		return invoke.Result{}, &invoke.Error{Kind: invoke.KindAlien, Message: oneLine(err.Error()), Err: err}
	}
	return res, nil
}

var _ invoke.Invoker = (*Invoker)(nil)
