// Package whereami finds the address under which execution environments can
// dial this machine, and the availability zone that it is in. It asks who can
// know: Kubernetes (the downward API), Amazon ECS (task metadata), Amazon EC2
// (instance metadata), and at last the machine itself. It decides nothing about
// listeners, keeps nothing that may change, and must not know Caddy.
//
// What is found has to be an address that another machine can dial; where that
// is not sure, an error that says what to set is better than a guess, which would
// cost one timeout of the function after another. So
//
//   - a pod that is not told its address (POD_IPS, POD_IP) takes that of its
//     interface only if there is one IPv4 address, or no IPv4 and one IPv6 address;
//     of any range, because VPCs have others than the private ones (100.64.0.0/10),
//     and IPv6 clusters have global ones;
//   - an ECS task in network mode bridge takes its host's address with the port
//     that the host publishes for it, or none;
//   - any other machine takes its first private address. 100.64.0.0/10 is none:
//     overlay networks use it.
package whereami

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync"
	"time"
)

const (
	// patience is how long each metadata service may take over all. Both answer
	// within milliseconds where they exist. Where there is none, the attempt to
	// connect ends sooner still (dialPatience).
	patience     = time.Second
	dialPatience = 250 * time.Millisecond

	// answerLasts is how long it is remembered that nobody knew, so that the
	// many pools of one configuration do not each wait for that.
	answerLasts = 10 * time.Second
)

// Source is who told the address. Sources are a closed set, for logs.
type Source string

// The sources, in the order in which they are asked.
const (
	SourceKubernetes Source = "kubernetes"
	SourceECS        Source = "ecs"
	SourceEC2        Source = "ec2"
	SourceInterface  Source = "interface"
)

// The variables that are read. POD_IP and POD_IPS are the usual names for the
// downward API's status.podIP and status.podIPs; Kubernetes sets neither by
// itself. It does set the third, in every pod; ECS sets the fourth, in every
// container.
const (
	podIPVariable      = "POD_IP"
	podIPsVariable     = "POD_IPS"
	kubernetesVariable = "KUBERNETES_SERVICE_HOST"
	ecsVariable        = "ECS_CONTAINER_METADATA_URI_V4"
)

// Place is where this machine is.
type Place struct {
	// Addrs are its addresses in the network of the environments, IPv4 before
	// IPv6. At least one, unless Find failed.
	Addrs []netip.Addr
	// Source is who told them.
	Source Source
	// Zone is the name of the availability zone, such as "eu-central-1a". Names
	// mean different zones in different accounts. Empty if nobody knows it.
	Zone string
	// ZoneID is the zone's ID, such as "euc1-az2", which is the same in all
	// accounts and the only thing that a Lambda environment learns of its own
	// zone. EC2 tells it, ECS does not. Empty if nobody knows it.
	ZoneID string
	// Silent says why a service that seems to exist did not answer the question
	// that it was asked, nil if none did so.
	Silent error

	task ecsTask // its ports are other ones than this process's, in network mode bridge
}

// Dialled returns where environments dial one of the addresses to reach a port
// of this process.
func (p Place) Dialled(own netip.AddrPort) (netip.AddrPort, error) {
	if !p.task.bridge || p.Source != SourceEC2 {
		return own, nil
	}
	ports := p.task.hostPorts(own)
	if len(ports) != 1 {
		err := fmt.Errorf("this ECS task is in network mode bridge, and ECS does not tell which port of its host leads to TCP port %d: "+
			"add a port mapping, use network mode awsvpc, or set advertise to host:port", own.Port())
		return netip.AddrPort{}, errors.Join(err, p.Silent)
	}
	return netip.AddrPortFrom(own.Addr(), ports[0]), nil
}

// Finder finds the place, and remembers the answer. The zero value is ready to
// use, and is safe for concurrent use.
type Finder struct {
	mu    sync.Mutex // guards the following; held while services are asked
	place Place
	err   error
	until time.Time // the answer is good until then; zero: it has not been asked

	getenv     func(string) string        // nil: os.Getenv
	interfaces func() ([]net.Addr, error) // nil: net.InterfaceAddrs
}

// Find returns where this machine is. It takes at most two seconds, and less
// than one outside AWS. What a service said is remembered for good, that none
// said anything for some seconds.
//
// The error says which address is missing and what to do about it; the place
// that comes with it can still have a zone.
func (f *Finder) Find(ctx context.Context) (Place, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if time.Now().Before(f.until) {
		return f.place, f.err
	}
	f.place, f.err = f.find(ctx)
	f.until = time.Now().Add(answerLasts)
	if f.err == nil && f.place.Source != SourceInterface && f.place.Silent == nil {
		f.until = f.until.AddDate(100, 0, 0)
	}
	if ctx.Err() != nil {
		f.until = time.Time{}
	}
	return f.place, f.err
}

func (f *Finder) find(ctx context.Context) (Place, error) {
	p, err := f.pod()
	if err != nil {
		return p, err
	}
	// A pod has an address of its own, other than its node's; and so, most
	// likely, has a task that ECS says nothing about.
	inPod := f.env(kubernetesVariable) != ""
	ownAddress := inPod
	if endpoint := f.env(ecsVariable); endpoint != "" {
		p.task, err = askECS(ctx, endpoint)
		p.learn(SourceECS, p.task.Addrs, p.task.Zone, "")
		if err == nil && p.task.fargate && len(p.task.Addrs) == 0 {
			err = errTaskUnnamed
		}
		p.failed(err)
		ownAddress = ownAddress || err != nil && !p.task.bridge
	}
	// Fargate lends no instance metadata.
	if !p.task.fargate && (len(p.Addrs) == 0 || p.ZoneID == "") {
		instance, err := askEC2(ctx)
		addrs := instance.Addrs
		if ownAddress {
			addrs = nil
		}
		p.learn(SourceEC2, addrs, instance.Zone, instance.ZoneID)
		p.failed(err)
	}
	if len(p.Addrs) > 0 {
		return p, nil
	}
	if p.task.bridge {
		return p, errors.Join(errHostUnknown, p.Silent)
	}
	own, err := f.own(inPod)
	if err != nil {
		return p, errors.Join(err, p.Silent)
	}
	p.learn(SourceInterface, own, "", "")
	return p, nil
}

var errHostUnknown = errors.New("this ECS task is in network mode bridge, and EC2 does not tell the address of its host: " +
	"let instance metadata pass two hops, use network mode awsvpc, or set advertise to host:port")

var errTaskUnnamed = errors.New("asking ECS for this task's address: it names none that environments could dial")

// learn takes what is not known yet.
func (p *Place) learn(from Source, addrs []netip.Addr, zone, zoneID string) {
	if len(p.Addrs) == 0 && len(addrs) > 0 {
		p.Addrs, p.Source = addrs, from
	}
	if p.Zone == "" {
		p.Zone = zone
	}
	// An ID is believed only with the name that is known: they must not be of
	// two zones.
	if p.ZoneID == "" && (zone == p.Zone) {
		p.ZoneID = zoneID
	}
}

func (p *Place) failed(err error) {
	p.Silent = errors.Join(p.Silent, err)
}

func (f *Finder) env(name string) string {
	if f.getenv == nil {
		return os.Getenv(name)
	}
	return f.getenv(name)
}

// pod reads what Kubernetes was asked to put into the environment. What is
// there and makes no sense is an error: somebody wanted it to be used.
func (f *Finder) pod() (Place, error) {
	var p Place
	for _, name := range []string{podIPsVariable, podIPVariable} {
		value := f.env(name)
		if value == "" {
			continue
		}
		var addrs []netip.Addr
		for text := range strings.SplitSeq(value, ",") {
			addr, ok := dialable(text)
			if !ok {
				return p, fmt.Errorf("%s is %q, which is no address that environments could dial: "+
					"let it come from status.podIP, or remove it", name, value)
			}
			addrs = append(addrs, addr)
		}
		p.learn(SourceKubernetes, v4First(addrs), "", "")
		return p, nil
	}
	return p, nil
}

// zoneText returns what a service said about a zone if it can be one, such as
// "eu-central-1a", "us-west-2-lax-1a" or "euc1-az2". It becomes part of logs.
func zoneText(s string) string {
	s = strings.TrimSpace(s)
	if s == "" || len(s) > 40 {
		return ""
	}
	for _, c := range s {
		if (c < 'a' || c > 'z') && (c < '0' || c > '9') && c != '-' {
			return ""
		}
	}
	return s
}
