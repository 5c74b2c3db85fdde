package caddymodule

import (
	"os"
	"testing"
)

// No test of this package may ask a cloud who it is: on a machine that has an
// answer, the SDK would use it.
func TestMain(m *testing.M) {
	for name, value := range map[string]string{
		"AWS_EC2_METADATA_DISABLED": "true",
		"AWS_ACCESS_KEY_ID":         "any",
		"AWS_SECRET_ACCESS_KEY":     "any",
	} {
		if err := os.Setenv(name, value); err != nil {
			panic(err)
		}
	}
	os.Exit(m.Run())
}
