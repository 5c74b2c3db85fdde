package adapter

import (
	"log/slog"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"
)

func TestConfigDefaults(t *testing.T) {
	got, unknown, err := ParseConfig(nil)
	want := Config{
		Host: "127.0.0.1", Port: 8080, AppProtocol: "http1", HangTimeout: 30 * time.Second, ReadinessPath: "/", ReadinessProtocol: "http",
		HealthyStatus: []statusRange{{100, 499}}, LogLevel: slog.LevelInfo, LogFormat: "text",
	}
	if err != nil || unknown != nil || !reflect.DeepEqual(got, want) {
		t.Errorf("%+v, %v, %v; want %+v", got, unknown, err, want)
	}
}

func TestConfig(t *testing.T) {
	tests := []struct {
		env  string
		want func(*Config)
		err  string
	}{
		{"PORT=3000", func(c *Config) { c.Port = 3000 }, ""},
		{"PORT=3000 AWS_LWA_PORT=4000", func(c *Config) { c.Port = 4000 }, ""},
		{"PORT=3000 AWS_LWA_PORT=4000 LAMBDA_DISPATCH_PORT=5000", func(c *Config) { c.Port = 5000 }, ""},
		{"LAMBDA_DISPATCH_APP_PROTOCOL=H2C", func(c *Config) { c.AppProtocol = "h2c" }, ""},
		{"LAMBDA_DISPATCH_APP_PROTOCOL=h3", nil, "http1 or h2c"},
		{"LAMBDA_DISPATCH_APP_HANG_TIMEOUT=0", func(c *Config) { c.HangTimeout = 0 }, ""},
		{"LAMBDA_DISPATCH_APP_HANG_TIMEOUT=2m", func(c *Config) { c.HangTimeout = 2 * time.Minute }, ""},
		{"LAMBDA_DISPATCH_APP_HANG_TIMEOUT=-1s", nil, "positive duration"},
		{"PORT=x LAMBDA_DISPATCH_PORT=5000", func(c *Config) { c.Port = 5000 }, ""},
		{"PORT= ", func(*Config) {}, ""},
		{"PORT=0", nil, "PORT is"},
		{"PORT=65536", nil, "65535"},
		{"LAMBDA_DISPATCH_HOST=::1", func(c *Config) { c.Host = "::1" }, ""},
		{"LAMBDA_DISPATCH_READINESS_PORT=9", func(c *Config) { c.ReadinessPort = 9 }, ""},
		{"AWS_LWA_READINESS_CHECK_PATH=/health?x", func(c *Config) { c.ReadinessPath = "/health?x" }, ""},
		{"LAMBDA_DISPATCH_READINESS_PATH=health", nil, "slash"},
		{"LAMBDA_DISPATCH_READINESS_PATH=/a\r\n", nil, "control"},
		{"LAMBDA_DISPATCH_READINESS_PROTOCOL=TCP", func(c *Config) { c.ReadinessProtocol = "tcp" }, ""},
		{"LAMBDA_DISPATCH_READINESS_PROTOCOL=udp", nil, "http or tcp"},
		{"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=200-299,404", func(c *Config) { c.HealthyStatus = []statusRange{{200, 299}, {404, 404}} }, ""},
		{"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=299-200", nil, "ranges"},
		{"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=200,", nil, "ranges"},
		{"LAMBDA_DISPATCH_READINESS_HEALTHY_STATUS=20", nil, "ranges"},
		{"LAMBDA_DISPATCH_READINESS_TIMEOUT=1.5s", func(c *Config) { c.ReadinessTimeout = 1500 * time.Millisecond }, ""},
		{"LAMBDA_DISPATCH_READINESS_TIMEOUT=30", nil, "unit"},
		{"LAMBDA_DISPATCH_READINESS_TIMEOUT=-1s", nil, "positive"},
		{"AWS_LAMBDA_LOG_LEVEL=WARN AWS_LAMBDA_LOG_FORMAT=JSON", func(c *Config) { c.LogLevel, c.LogFormat = slog.LevelWarn, "json" }, ""},
		{"AWS_LAMBDA_LOG_LEVEL=loud", nil, "AWS_LAMBDA_LOG_LEVEL is"},
	}
	for _, tt := range tests {
		got, _, err := ParseConfig(strings.Split(tt.env, " "))
		if tt.err != "" {
			if err == nil || !strings.Contains(err.Error(), tt.err) || strings.Contains(err.Error(), "\n") {
				t.Errorf("%q: error %v, want one line with %q", tt.env, err, tt.err)
			}
			continue
		}
		want, _, _ := ParseConfig(nil)
		tt.want(&want)
		if err != nil || !reflect.DeepEqual(got, want) {
			t.Errorf("%q: %+v, %v; want %+v", tt.env, got, err, want)
		}
	}
}

func TestUnknownSettings(t *testing.T) {
	_, unknown, err := ParseConfig([]string{"LAMBDA_DISPATCH_PRT=1", "LAMBDA_DISPATCH_A=", "AWS_LWA_X=1", "HOME=/", "junk"})
	if want := []string{"LAMBDA_DISPATCH_A", "LAMBDA_DISPATCH_PRT"}; err != nil || !slices.Equal(unknown, want) {
		t.Errorf("unknown %q, %v; want %q", unknown, err, want)
	}
}

func TestAddresses(t *testing.T) {
	c := Config{Host: "::1", Port: 80}
	if c.AppAddress() != "[::1]:80" || c.readinessAddress() != "[::1]:80" {
		t.Errorf("%s %s", c.AppAddress(), c.readinessAddress())
	}
	if c.ReadinessPort = 81; c.readinessAddress() != "[::1]:81" {
		t.Error(c.readinessAddress())
	}
}
