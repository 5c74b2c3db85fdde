package adapter

import (
	"runtime/debug"
	"sync"
)

// buildVersion can be set when linking, with -X.
var buildVersion string

// Version is the version of the adapter, as the build knows it.
var Version = sync.OnceValue(func() string {
	if buildVersion != "" {
		return buildVersion
	}
	info, ok := debug.ReadBuildInfo()
	if !ok {
		return "unknown"
	}
	const module = "github.com/lambda-dispatch/lambda-dispatch"
	if info.Main.Path == module && info.Main.Version != "" {
		return info.Main.Version
	}
	for _, dep := range info.Deps { // within Caddy
		if dep.Path == module {
			return dep.Version
		}
	}
	return "unknown"
})
