package caddymodule

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"time"

	"github.com/caddyserver/caddy/v2"
	"github.com/caddyserver/caddy/v2/caddyconfig"
	"github.com/caddyserver/caddy/v2/caddyconfig/caddyfile"
	"github.com/caddyserver/caddy/v2/caddyconfig/httpcaddyfile"
)

func init() {
	httpcaddyfile.RegisterGlobalOption("lambda_dispatch", parseGlobalOption)
}

const (
	defaultCloudWatchNamespace = "LambdaDispatch"
	defaultCloudWatchInterval  = time.Minute
	// CloudWatch keeps metrics that are not of high resolution by the minute,
	// so that less than a second is only noise.
	leastCloudWatchInterval = time.Second
	mostCloudWatchInterval  = time.Hour

	// poolDimension is in every line.
	poolDimension = "pool"

	// Limits of CloudWatch.
	// Source: https://docs.aws.amazon.com/AmazonCloudWatch/latest/APIReference/API_Dimension.html
	// and API_PutMetricData.html, API_MetricDatum.html
	cloudWatchNameLimit  = 255
	cloudWatchValueLimit = 1024
	cloudWatchDimensions = 30
)

// CloudWatchMetrics makes Caddy write the metrics of every pool to standard
// output once an interval, one line each in CloudWatch's Embedded Metric
// Format: what takes the output to CloudWatch Logs makes metrics of it, such as
// the awslogs driver of ECS.
type CloudWatchMetrics struct {
	// The namespace of the metrics. Placeholders such as `{env.STAGE}` are
	// replaced when the configuration is loaded. Default: LambdaDispatch
	Namespace string `json:"namespace,omitempty"`

	// More dimensions, name to value, next to `pool`. Placeholders in values are
	// replaced when the configuration is loaded. What differs between routers
	// makes metrics of each, which CloudWatch bills. Default: none
	Dimensions map[string]string `json:"dimensions,omitempty"`

	// How often, from 1s to 1h. Default: 1m
	Interval caddy.Duration `json:"interval,omitempty"`
}

// provision replaces placeholders, sets defaults and checks the values.
func (c *CloudWatchMetrics) provision() error {
	repl := caddy.NewReplacer()
	var err error
	if c.Namespace, err = repl.ReplaceOrErr(c.Namespace, true, true); err != nil {
		return fmt.Errorf("namespace: %w", err)
	}
	if c.Namespace == "" {
		c.Namespace = defaultCloudWatchNamespace
	}
	if c.Interval == 0 {
		c.Interval = caddy.Duration(defaultCloudWatchInterval)
	}
	for name, value := range c.Dimensions {
		if c.Dimensions[name], err = repl.ReplaceOrErr(value, true, true); err != nil {
			return fmt.Errorf("dimension %s: %w", name, err)
		}
	}
	return c.validate()
}

func (c *CloudWatchMetrics) validate() error {
	if err := validateNamespace(c.Namespace); err != nil {
		return err
	}
	if d := time.Duration(c.Interval); d < leastCloudWatchInterval || d > mostCloudWatchInterval {
		return fmt.Errorf("interval is %v, must be between %v and %v", d, leastCloudWatchInterval, mostCloudWatchInterval)
	}
	if err := c.validateCount(); err != nil {
		return err
	}
	for _, name := range slices.Sorted(maps.Keys(c.Dimensions)) {
		if err := validateDimension(name, c.Dimensions[name]); err != nil {
			return err
		}
	}
	return nil
}

func (c *CloudWatchMetrics) validateCount() error {
	if n := len(c.Dimensions); n >= cloudWatchDimensions {
		return fmt.Errorf("%d dimensions are too many: CloudWatch takes %d, and %s is one", n, cloudWatchDimensions, poolDimension)
	}
	return nil
}

func validateNamespace(s string) error {
	bad := strings.ContainsFunc(s, func(r rune) bool {
		return (r < 'a' || r > 'z') && (r < 'A' || r > 'Z') && (r < '0' || r > '9') && !strings.ContainsRune(".-_/#: ", r)
	})
	if bad || s == "" || len(s) > cloudWatchNameLimit || strings.HasPrefix(s, ":") || strings.TrimSpace(s) != s {
		return fmt.Errorf("namespace is %q, must be 1 to %d of letters, digits and .-_/#: without a colon in front", s, cloudWatchNameLimit)
	}
	if strings.HasPrefix(s, "AWS/") {
		return fmt.Errorf("namespace is %q, but those that begin with AWS/ are Amazon's", s)
	}
	return nil
}

func validateDimension(name, value string) error {
	switch {
	case name == poolDimension:
		return fmt.Errorf("dimension %s is always there", name)
	case name == "_aws" || slices.ContainsFunc(emfMetrics, func(m emfMetric) bool { return m.name == name }):
		return fmt.Errorf("dimension %s has the name of something else in the line", name)
	case !printable(name) || len(name) > cloudWatchNameLimit || strings.HasPrefix(name, ":"):
		return fmt.Errorf("dimension %q must be named with 1 to %d ASCII characters without a colon in front", name, cloudWatchNameLimit)
	case !printable(value) || len(value) > cloudWatchValueLimit:
		return fmt.Errorf("dimension %s is %q, must be 1 to %d ASCII characters that are not all spaces", name, value, cloudWatchValueLimit)
	}
	return nil
}

func printable(s string) bool {
	return strings.TrimSpace(s) != "" && !strings.ContainsFunc(s, func(r rune) bool { return r < ' ' || r > '~' })
}

// parseGlobalOption reads the global option of the Caddyfile. Syntax:
//
//	lambda_dispatch {
//	    cloudwatch_metrics {
//	        namespace  <name>
//	        dimensions <name> <value> [<name> <value>...]
//	        interval   <duration>
//	    }
//	}
func parseGlobalOption(d *caddyfile.Dispenser, existing any) (any, error) {
	d.Next() // the option's name
	if existing != nil {
		return nil, d.Err("global option lambda_dispatch is given twice")
	}
	if d.NextArg() {
		return nil, d.Errf("unexpected argument '%s': global option lambda_dispatch takes a block", d.Val())
	}
	app := new(App)
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if err := seen.check(d); err != nil {
			return nil, err
		}
		if d.Val() != "cloudwatch_metrics" {
			return nil, unknown(d, "global option lambda_dispatch", []string{"cloudwatch_metrics"})
		}
		app.CloudWatchMetrics = new(CloudWatchMetrics)
		if err := app.CloudWatchMetrics.unmarshalCaddyfile(d); err != nil {
			return nil, err
		}
	}
	return httpcaddyfile.App{Name: "lambda_dispatch", Value: caddyconfig.JSON(app, nil)}, nil
}

func (c *CloudWatchMetrics) unmarshalCaddyfile(d *caddyfile.Dispenser) error {
	if d.NextArg() {
		return d.Errf("unexpected argument '%s': cloudwatch_metrics takes a block", d.Val())
	}
	var seen once
	for nesting := d.Nesting(); d.NextBlock(nesting); {
		if d.Val() != "dimensions" {
			if err := seen.check(d); err != nil {
				return err
			}
		}
		var err error
		switch d.Val() {
		case "namespace":
			if err = oneArg(d, &c.Namespace); err == nil && !strings.Contains(c.Namespace, "{") {
				err = at(d, validateNamespace(c.Namespace))
			}
		case "dimensions":
			err = c.unmarshalDimensions(d)
		case "interval":
			if err = durationArg(d, &c.Interval, false); err == nil {
				err = at(d, c.intervalOnly().validate())
			}
		default:
			err = unknown(d, "cloudwatch_metrics", []string{"dimensions", "interval", "namespace"})
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// intervalOnly is what is known when the interval is read.
func (c *CloudWatchMetrics) intervalOnly() *CloudWatchMetrics {
	return &CloudWatchMetrics{Namespace: defaultCloudWatchNamespace, Interval: c.Interval}
}

func (c *CloudWatchMetrics) unmarshalDimensions(d *caddyfile.Dispenser) error {
	args := d.RemainingArgs()
	if len(args) == 0 || len(args)%2 != 0 {
		return d.Errf("dimensions takes names and values, got %d arguments", len(args))
	}
	if c.Dimensions == nil {
		c.Dimensions = make(map[string]string)
	}
	for pair := range slices.Chunk(args, 2) {
		name, value := pair[0], pair[1]
		if _, dup := c.Dimensions[name]; dup {
			return d.Errf("dimension %s is given twice", name)
		}
		known := value
		if strings.Contains(value, "{") {
			known = "placeholder" // what it stands for is known later
		}
		if err := validateDimension(name, known); err != nil {
			return d.WrapErr(err)
		}
		c.Dimensions[name] = value
	}
	return at(d, c.validateCount())
}

// at gives an error file and line.
func at(d *caddyfile.Dispenser, err error) error {
	if err == nil {
		return nil
	}
	return d.WrapErr(err)
}
