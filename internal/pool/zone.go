package pool

import "github.com/lambda-dispatch/lambda-dispatch/internal/tunnel"

// Zone says how the availability zones of the two ends of a tunnel relate. What
// crosses zones is billed. Zones are a closed set, so that they can label a
// metric.
type Zone string

// The relations.
const (
	ZoneSame    Zone = "same"
	ZoneCross   Zone = "cross"
	ZoneUnknown Zone = "unknown"
)

// Zones lists every relation.
var Zones = []Zone{ZoneSame, ZoneCross, ZoneUnknown}

// relate compares the zone IDs of router and instance.
func relate(router, instance string) Zone {
	switch {
	case router == "" || instance == "":
		return ZoneUnknown
	case router == instance:
		return ZoneSame
	default:
		return ZoneCross
	}
}

// Traffic is what has crossed some tunnels.
type Traffic struct {
	Zone Zone `json:"zone"`
	// In came from the adapters, Out went to them. In bytes, without what TLS
	// and TCP add.
	In  uint64 `json:"in"`
	Out uint64 `json:"out"`
}

// zoneTraffic adds up traffic in the order of Zones.
type zoneTraffic [3]Traffic

// add counts what has crossed the tunnel of the instance. Callers hold pool.mu.
func (z *zoneTraffic) add(in *instance) {
	if in.meter == nil {
		return
	}
	from, to := in.meter.Bytes()
	for i, zone := range Zones {
		if zone == in.zone {
			z[i].In += from
			z[i].Out += to
		}
	}
}

func (z *zoneTraffic) list() []Traffic {
	for i, zone := range Zones {
		z[i].Zone = zone
	}
	return z[:]
}

// meterOf returns what counts the tunnel's bytes, nil if nothing does.
func meterOf(t tunnel.Tunnel) tunnel.Metered {
	m, _ := t.(tunnel.Metered)
	return m
}
