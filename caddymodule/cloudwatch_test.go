package caddymodule

import (
	"encoding/json"
	"fmt"
	"strings"
	"testing"
	"time"

	"github.com/caddyserver/caddy/v2"
)

func TestCloudWatchMetricsInACaddyfile(t *testing.T) {
	got, _, err := adapt(t, `{
	lambda_dispatch {
		cloudwatch_metrics {
			namespace Shop
			dimensions stage {env.STAGE} team a
			dimensions region "eu central"
			interval 30s
		}
	}
}
:80 {
	lambda_dispatch a
}
`)
	if err != nil {
		t.Fatal(err)
	}
	var conf struct {
		Apps map[string]json.RawMessage `json:"apps"`
	}
	if err := json.Unmarshal([]byte(got), &conf); err != nil {
		t.Fatal(err)
	}
	const want = `{"cloudwatch_metrics":{"namespace":"Shop","dimensions":{"stage":"{env.STAGE}","team":"a","region":"eu central"},"interval":30000000000}}`
	if app := string(conf.Apps["lambda_dispatch"]); normal(t, app) != normal(t, want) {
		t.Errorf("got\n%s\nwant\n%s", app, want)
	}
}

func TestWrongCloudWatchMetricsInACaddyfile(t *testing.T) {
	var many strings.Builder
	for i := range 30 {
		fmt.Fprintf(&many, " d%d v", i)
	}
	for _, tc := range []struct{ name, block, line, want string }{
		{"argument", "lambda_dispatch x", ":2", "unexpected argument 'x': global option lambda_dispatch takes a block"},
		{"unknown", "lambda_dispatch {\nmetrics\n}", ":3", "unrecognized subdirective 'metrics' of global option lambda_dispatch, must be one of: cloudwatch_metrics"},
		{"option twice", "lambda_dispatch {\n}\nlambda_dispatch {\n}", ":4", "global option lambda_dispatch is given twice"},
		{"block twice", "lambda_dispatch {\ncloudwatch_metrics {\n}\ncloudwatch_metrics\n}", ":5", "cloudwatch_metrics is given twice"},
		{"block with argument", "lambda_dispatch {\ncloudwatch_metrics x\n}", ":3", "unexpected argument 'x': cloudwatch_metrics takes a block"},
		{"unknown inside", metricsBlock("name x"), ":4", "unrecognized subdirective 'name' of cloudwatch_metrics, must be one of: dimensions, interval, namespace"},
		{"namespace twice", metricsBlock("namespace a\nnamespace b"), ":5", "namespace is given twice"},
		{"bad namespace", metricsBlock("namespace :a"), ":4", "namespace is \":a\", must be 1 to 255 of letters, digits and .-_/#:"},
		{"Amazon's namespace", metricsBlock("namespace AWS/Lambda"), ":4", "those that begin with AWS/ are Amazon's"},
		{"no interval", metricsBlock("interval off"), ":4", "bad interval value 'off': must be a duration above zero"},
		{"short interval", metricsBlock("interval 10ms"), ":4", "interval is 10ms, must be between 1s and 1h0m0s"},
		{"dimension without a value", metricsBlock("dimensions a"), ":4", "dimensions takes names and values, got 1 arguments"},
		{"dimension twice", metricsBlock("dimensions a 1\ndimensions a 2"), ":5", "dimension a is given twice"},
		{"the dimension that there is", metricsBlock("dimensions pool x"), ":4", "dimension pool is always there"},
		{"the name of a metric", metricsBlock("dimensions Starts x"), ":4", "dimension Starts has the name of something else in the line"},
		{"dimension with a colon", metricsBlock("dimensions :a x"), ":4", "must be named with 1 to 255 ASCII characters without a colon in front"},
		{"empty dimension", metricsBlock("dimensions a \" \""), ":4", "dimension a is \" \", must be 1 to 1024 ASCII characters"},
		{"too many dimensions", metricsBlock("dimensions" + many.String()), ":4", "too many"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			_, _, err := adapt(t, "{\n"+tc.block+"\n}\n:80 {\nlambda_dispatch a\n}\n")
			if err == nil {
				t.Fatal("accepted")
			}
			if !strings.Contains(err.Error(), tc.want) || !strings.Contains(err.Error(), "Caddyfile"+tc.line) {
				t.Errorf("error is\n%v\nwant it to name Caddyfile%s and say\n%s", err, tc.line, tc.want)
			}
		})
	}
}

func metricsBlock(lines string) string {
	return "lambda_dispatch {\ncloudwatch_metrics {\n" + lines + "\n}\n}"
}

func TestPlaceholdersOfCloudWatchMetrics(t *testing.T) {
	t.Setenv("TEST_STAGE", "prod")
	c := &CloudWatchMetrics{Namespace: "Shop/{env.TEST_STAGE}", Dimensions: map[string]string{"stage": "{env.TEST_STAGE}"}}
	if err := c.provision(); err != nil {
		t.Fatal(err)
	}
	if c.Namespace != "Shop/prod" || c.Dimensions["stage"] != "prod" || c.Interval != caddy.Duration(time.Minute) {
		t.Errorf("got %+v", c)
	}
	for _, bad := range []string{"{env.TEST_NOTHING}", "{http.request.host}"} {
		c := &CloudWatchMetrics{Dimensions: map[string]string{"stage": bad}}
		if err := c.provision(); err == nil {
			t.Errorf("%s is accepted", bad)
		}
	}
	plain := new(CloudWatchMetrics)
	if err := plain.provision(); err != nil || plain.Namespace != "LambdaDispatch" {
		t.Errorf("without anything: %+v, %v", plain, err)
	}
}
