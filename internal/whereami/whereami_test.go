package whereami

import (
	"context"
	"net"
	"net/http"
	"net/http/httptest"
	"net/netip"
	"os"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// machine is a machine in the cloud as Find sees it.
type machine struct {
	env  map[string]string
	ecs  http.HandlerFunc // nil: not a task
	ec2  http.HandlerFunc // nil: not an instance
	nets []string
}

// on makes this process seem to run on the machine.
func (m machine) on(t *testing.T) *Finder {
	t.Helper()
	for _, name := range []string{"AWS_PROFILE", "HTTP_PROXY", "http_proxy"} {
		t.Setenv(name, "")
	}
	t.Setenv("AWS_CONFIG_FILE", t.TempDir()+"/none")
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	env := map[string]string{}
	for name, value := range m.env {
		env[name] = value
		t.Setenv(name, value)
	}
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://"+nobody(t))
	if m.ec2 != nil {
		t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", serve(t, m.ec2).URL)
	}
	if m.ecs != nil {
		env[ecsVariable] = serve(t, m.ecs).URL + containerPath
	}
	nets := m.nets
	if nets == nil {
		nets = []string{"127.0.0.1/8", "172.17.0.9/16"}
	}
	return &Finder{
		getenv: func(name string) string { return env[name] },
		interfaces: func() ([]net.Addr, error) {
			var all []net.Addr
			for _, s := range nets {
				ip, n, err := net.ParseCIDR(s)
				if err != nil {
					t.Fatal(err)
				}
				all = append(all, &net.IPNet{IP: ip, Mask: n.Mask})
			}
			return all, nil
		},
	}
}

func serve(t *testing.T, h http.HandlerFunc) *httptest.Server {
	t.Helper()
	srv := httptest.NewServer(h)
	t.Cleanup(func() {
		srv.CloseClientConnections()
		srv.Close()
	})
	return srv
}

// nobody returns an address that refuses connections.
func nobody(t *testing.T) string {
	t.Helper()
	ln, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer ln.Close()
	return ln.Addr().String()
}

const (
	containerPath = "/v4/e9028f8d-2495160603"
	taskPath      = containerPath + "/task"
)

// task answers as the task metadata endpoint does.
func task(file string) http.HandlerFunc {
	return endpoint(map[string]string{taskPath: file})
}

// bridged answers as it does to a task in network mode bridge.
func bridged(container string) http.HandlerFunc {
	return endpoint(map[string]string{taskPath: "bridge.json", containerPath: container})
}

func endpoint(files map[string]string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		file, ok := files[r.URL.Path]
		if r.Method != http.MethodGet || !ok {
			http.NotFound(w, r)
			return
		}
		b := []byte(file)
		if strings.HasSuffix(file, ".json") {
			var err error
			if b, err = os.ReadFile("testdata/" + file); err != nil {
				panic(err)
			}
		}
		w.Header().Set("Content-Type", "application/json")
		_, _ = w.Write(b)
	}
}

// instance answers as version 2 of the instance metadata service does, whose
// every answer needs a token.
func instance(values map[string]string) http.HandlerFunc {
	const token = "AQAEALyaJ1=="
	return func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == "/latest/api/token" {
			if r.Method != http.MethodPut || r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds") == "" {
				w.WriteHeader(http.StatusBadRequest)
				return
			}
			w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
			_, _ = w.Write([]byte(token))
			return
		}
		if r.Header.Get("X-Aws-Ec2-Metadata-Token") != token {
			w.WriteHeader(http.StatusUnauthorized)
			return
		}
		value, ok := values[strings.TrimPrefix(r.URL.Path, "/latest/meta-data/")]
		if !ok {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write([]byte(value))
	}
}

func dualStack() map[string]string {
	return map[string]string{
		"local-ipv4": "10.0.2.20", "ipv6": "2001:db8:10b:a8b::20",
		"placement/availability-zone": "eu-central-1b", "placement/availability-zone-id": "euc1-az3",
	}
}

func without(values map[string]string, names ...string) map[string]string {
	for _, name := range names {
		delete(values, name)
	}
	return values
}

func status(code int) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) { w.WriteHeader(code) }
}

func garbage(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte("<html><body>Welcome to the hotel's network!</body></html>"))
}

// silent accepts connections and says nothing.
func silent(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() }

func TestFind(t *testing.T) {
	inPod := func(more ...string) map[string]string {
		env := map[string]string{kubernetesVariable: "172.20.0.1"}
		for i := 0; i < len(more); i += 2 {
			env[more[i]] = more[i+1]
		}
		return env
	}
	for _, tc := range []struct {
		name    string
		on      machine
		addrs   string
		source  Source
		zone    string // name/ID
		silent  string // which service failed
		atLeast time.Duration
	}{
		{name: "a Fargate task", on: machine{ecs: task("fargate.json"), ec2: instance(dualStack())},
			addrs: "10.0.1.117 2001:db8:10b:a8b:f52c:a4ba:c38e:16b9", source: SourceECS, zone: "eu-central-1b/"},
		{name: "a task with an interface of its own on EC2", on: machine{ecs: awsvpcOnEC2, ec2: instance(dualStack())},
			addrs: "10.0.1.5", source: SourceECS, zone: "eu-central-1b/euc1-az3"},
		{name: "the instance's zone is another one than the task's", on: machine{ecs: awsvpcOnEC2, ec2: instance(map[string]string{
			"local-ipv4": "10.0.2.20", "placement/availability-zone": "eu-central-1a", "placement/availability-zone-id": "euc1-az2"})},
			addrs: "10.0.1.5", source: SourceECS, zone: "eu-central-1b/"},
		{name: "a task in bridge mode", on: machine{ecs: bridged("bridge-container.json"), ec2: instance(dualStack())},
			addrs: "10.0.2.20 2001:db8:10b:a8b::20", source: SourceEC2, zone: "eu-central-1b/euc1-az3"},
		{name: "a task in its host's network", on: machine{ecs: endpoint(map[string]string{taskPath: `{"LaunchType":"EC2","Containers":[{"Networks":[{"NetworkMode":"host"}]}]}`}),
			ec2: instance(dualStack())}, addrs: "10.0.2.20 2001:db8:10b:a8b::20", source: SourceEC2, zone: "eu-central-1b/euc1-az3"},
		{name: "ECS answers at the third attempt", on: machine{ecs: throttled(2, task("fargate.json"))},
			addrs: "10.0.1.117 2001:db8:10b:a8b:f52c:a4ba:c38e:16b9", source: SourceECS, zone: "eu-central-1b/"},
		{name: "ECS says 404", on: machine{ecs: status(404)}, addrs: "172.17.0.9", source: SourceInterface, silent: "ECS"},
		{name: "ECS says 401 on an instance", on: machine{ecs: status(401), ec2: instance(dualStack())},
			addrs: "172.17.0.9", source: SourceInterface, zone: "eu-central-1b/euc1-az3", silent: "ECS"},
		{name: "ECS names no address of a Fargate task", on: machine{ecs: endpoint(map[string]string{taskPath: `{"LaunchType":"FARGATE","AvailabilityZone":"eu-central-1b","Containers":[{"Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["169.254.1.2"]}]}]}`})},
			addrs: "172.17.0.9", source: SourceInterface, zone: "eu-central-1b/", silent: "ECS"},
		{name: "ECS says something else", on: machine{ecs: garbage}, addrs: "172.17.0.9", source: SourceInterface, silent: "ECS"},
		{name: "ECS hangs", on: machine{ecs: silent}, addrs: "172.17.0.9", source: SourceInterface, silent: "ECS", atLeast: patience / 2},

		{name: "an instance", on: machine{ec2: instance(dualStack())},
			addrs: "10.0.2.20 2001:db8:10b:a8b::20", source: SourceEC2, zone: "eu-central-1b/euc1-az3"},
		{name: "an instance without IPv6", on: machine{ec2: instance(without(dualStack(), "ipv6"))},
			addrs: "10.0.2.20", source: SourceEC2, zone: "eu-central-1b/euc1-az3"},
		{name: "an instance without IPv4", on: machine{ec2: instance(without(dualStack(), "local-ipv4"))},
			addrs: "2001:db8:10b:a8b::20", source: SourceEC2, zone: "eu-central-1b/euc1-az3"},
		{name: "an instance that has no zone ID to say", on: machine{ec2: instance(without(dualStack(), "placement/availability-zone-id"))},
			addrs: "10.0.2.20 2001:db8:10b:a8b::20", source: SourceEC2, zone: "eu-central-1b/"},
		{name: "EC2 is disabled", on: machine{env: map[string]string{"AWS_EC2_METADATA_DISABLED": "TRUE"}, ec2: instance(dualStack())},
			addrs: "172.17.0.9", source: SourceInterface},
		{name: "EC2 says 401", on: machine{ec2: status(401)}, addrs: "172.17.0.9", source: SourceInterface, silent: "EC2"},
		{name: "EC2 says 403, as where an instance turns it off", on: machine{ec2: status(403)}, addrs: "172.17.0.9", source: SourceInterface, silent: "EC2"},
		{name: "another cloud's service", on: machine{ec2: status(404)}, addrs: "172.17.0.9", source: SourceInterface},
		{name: "EC2 says something else", on: machine{ec2: garbage}, addrs: "172.17.0.9", source: SourceInterface, silent: "EC2"},
		{name: "EC2 hangs, as behind one hop too many", on: machine{ec2: silent}, addrs: "172.17.0.9", source: SourceInterface, silent: "EC2", atLeast: patience / 4},

		{name: "a pod that was told its address", on: machine{env: inPod(podIPVariable, "10.244.1.7"), ec2: instance(dualStack())},
			addrs: "10.244.1.7", source: SourceKubernetes, zone: "eu-central-1b/euc1-az3"},
		{name: "a task that was told its address", on: machine{env: map[string]string{podIPVariable: "10.9.9.9"}, ecs: task("fargate.json")},
			addrs: "10.9.9.9", source: SourceKubernetes, zone: "eu-central-1b/"},
		{name: "a pod with two addresses", on: machine{env: inPod(podIPsVariable, "2001:db8::7,10.244.1.7", podIPVariable, "2001:db8::7")},
			addrs: "10.244.1.7 2001:db8::7", source: SourceKubernetes},
		{name: "a pod that was told nothing", on: machine{env: inPod(), ec2: instance(dualStack()), nets: []string{"10.244.1.7/24"}},
			addrs: "10.244.1.7", source: SourceInterface, zone: "eu-central-1b/euc1-az3"},
		{name: "a pod in a secondary range of its VPC", on: machine{env: inPod(), nets: []string{"127.0.0.1/8", "100.64.3.9/32", "fe80::1/64"}},
			addrs: "100.64.3.9", source: SourceInterface},
		{name: "a pod in a public range", on: machine{env: inPod(), nets: []string{"203.0.113.7/32"}}, addrs: "203.0.113.7", source: SourceInterface},
		{name: "a pod in an IPv6 cluster, which EKS lets out by IPv4", on: machine{env: inPod(), ec2: instance(dualStack()),
			nets: []string{"127.0.0.1/8", "::1/128", "2600:1f14:abc::9/128", "fe80::1/64", "169.254.172.2/22"}},
			addrs: "2600:1f14:abc::9", source: SourceInterface, zone: "eu-central-1b/euc1-az3"},
		{name: "a pod with a unique local address", on: machine{env: inPod(), nets: []string{"fd00:10:244::7/128"}},
			addrs: "fd00:10:244::7", source: SourceInterface},
		{name: "a pod that EKS lets out by IPv6", on: machine{env: inPod(), nets: []string{"10.0.3.9/32", "fd00::ac:2/118"}},
			addrs: "10.0.3.9", source: SourceInterface},

		{name: "a machine outside AWS", on: machine{nets: []string{"127.0.0.1/8", "203.0.113.4/24", "fd00::4/64", "192.168.1.4/24"}},
			addrs: "192.168.1.4 fd00::4", source: SourceInterface},
	} {
		t.Run(tc.name, func(t *testing.T) {
			f := tc.on.on(t)
			begin := time.Now()
			p, err := f.Find(t.Context())
			took := time.Since(begin)
			if err != nil {
				t.Fatal(err)
			}
			if got := join(p.Addrs); got != tc.addrs || p.Source != tc.source {
				t.Errorf("addresses are %q from %s, want %q from %s", got, p.Source, tc.addrs, tc.source)
			}
			if got := strings.TrimPrefix(p.Zone+"/"+p.ZoneID, "/"); got != tc.zone {
				t.Errorf("zone is %q, want %q", got, tc.zone)
			}
			switch {
			case tc.silent == "" && p.Silent != nil:
				t.Errorf("it complains of %v", p.Silent)
			case tc.silent != "" && (p.Silent == nil || !strings.Contains(p.Silent.Error(), "asking "+tc.silent)):
				t.Errorf("it complains of %v, want of %s", p.Silent, tc.silent)
			}
			if took < tc.atLeast || took > 2*patience {
				t.Errorf("it took %v", took)
			}
		})
	}
}

// awsvpcOnEC2 is a task that ECS runs on an instance, with its pause container.
func awsvpcOnEC2(w http.ResponseWriter, _ *http.Request) {
	_, _ = w.Write([]byte(`{"LaunchType":"EC2","AvailabilityZone":"eu-central-1b","Containers":[
		{"Name":"sidecar","Type":"NORMAL","Networks":[{"NetworkMode":"awsvpc"}]},
		{"Name":"~internal~ecs~pause","Type":"CNI_PAUSE","Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.1.5"]}]},
		{"Name":"router","Type":"NORMAL","Networks":[{"NetworkMode":"awsvpc","IPv4Addresses":["10.0.1.5"]}]}]}`))
}

// throttled refuses the first requests.
func throttled(first int32, h http.HandlerFunc) http.HandlerFunc {
	var n atomic.Int32
	return func(w http.ResponseWriter, r *http.Request) {
		if n.Add(1) <= first {
			w.WriteHeader(http.StatusTooManyRequests)
			return
		}
		h(w, r)
	}
}

func join(addrs []netip.Addr) string {
	var texts []string
	for _, a := range addrs {
		texts = append(texts, a.String())
	}
	return strings.Join(texts, " ")
}

func TestWhatIsWrongIsSaid(t *testing.T) {
	const advice = "set POD_IP from status.podIP (downward API), or set advertise to an address"
	pod := map[string]string{kubernetesVariable: "172.20.0.1"}
	for _, tc := range []struct {
		name string
		on   machine
		want []string
	}{
		{"POD_IP is not one", machine{env: map[string]string{podIPVariable: "status.podIP"}}, []string{"POD_IP", `"status.podIP"`, "status.podIP"}},
		{"POD_IP is the loopback", machine{env: map[string]string{podIPVariable: "127.0.0.1"}}, []string{"POD_IP", "127.0.0.1"}},
		{"POD_IPS is half an address", machine{env: map[string]string{podIPsVariable: "10.0.0.7,"}}, []string{"POD_IPS"}},
		{"no address at all", machine{ecs: garbage, nets: []string{"127.0.0.1/8", "203.0.113.4/24", "fe80::1/64"}},
			[]string{"no private address", "name the host", "asking ECS"}},
		{"an overlay network only", machine{nets: []string{"127.0.0.1/8", "100.101.102.103/32"}}, []string{"no private address"}},
		{"a pod with two interfaces", machine{env: pod, ec2: instance(dualStack()), nets: []string{"127.0.0.1/8", "10.0.3.9/32", "172.17.0.1/16"}},
			[]string{"several addresses", "10.0.3.9", "172.17.0.1", advice}},
		{"a pod in a secondary range with two interfaces", machine{env: pod, nets: []string{"100.64.3.9/32", "100.64.9.1/32"}}, []string{"100.64.9.1", advice}},
		{"a pod with two IPv6 addresses", machine{env: pod, nets: []string{"2600:1f14:abc::9/128", "fd00::9/64"}}, []string{"2600:1f14:abc::9", "fd00::9", advice}},
		{"a pod without an address", machine{env: pod, ec2: instance(dualStack()), nets: []string{"127.0.0.1/8", "169.254.172.2/22", "fe80::1/64"}},
			[]string{"no address that environments could dial", advice}},

		{"a task in bridge mode whose host hides", machine{ecs: bridged("bridge-container.json")},
			[]string{"network mode bridge", "the address of its host", "awsvpc", "advertise to host:port"}},
		{"a task in bridge mode behind one hop too many", machine{ecs: bridged("bridge-container.json"), ec2: silent},
			[]string{"network mode bridge", "two hops", "asking EC2"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := tc.on.on(t).Find(t.Context())
			if err == nil {
				t.Fatalf("found %+v", p)
			}
			for _, want := range tc.want {
				if !strings.Contains(err.Error(), want) {
					t.Errorf("error %q does not say %q", err, want)
				}
			}
		})
	}
}

// In ECS's network mode bridge, environments dial the host's address with the
// port that it publishes for this container.
func TestBridgePorts(t *testing.T) {
	const old = `{"Ports":[{"ContainerPort":7443,"Protocol":"tcp","HostPort":49832}]}`
	for _, tc := range []struct {
		name      string
		container string
		own, want string // no want: an error
	}{
		{"IPv4", "bridge-container.json", "10.0.2.20:7443", "10.0.2.20:49832"},
		{"IPv6", "bridge-container.json", "[2001:db8:10b:a8b::20]:7443", "[2001:db8:10b:a8b::20]:49825"},
		{"a port that the task has chosen", "bridge-container.json", "10.0.2.20:8080", "10.0.2.20:80"},
		{"an agent that does not tell the host's address", old, "10.0.2.20:7443", "10.0.2.20:49832"},
		{"not published", "bridge-container.json", "10.0.2.20:9999", ""},
		{"not published for IPv6", `{"Ports":[{"ContainerPort":7443,"Protocol":"tcp","HostPort":1,"HostIp":"0.0.0.0"}]}`, "[2001:db8::20]:7443", ""},
		{"published on another address", `{"Ports":[{"ContainerPort":7443,"Protocol":"tcp","HostPort":1,"HostIp":"127.0.0.1"}]}`, "10.0.2.20:7443", ""},
		{"no port is", `{}`, "10.0.2.20:7443", ""},
		{"not yet chosen", `{"Ports":[{"ContainerPort":7443,"Protocol":"tcp"}]}`, "10.0.2.20:7443", ""},
		{"either of two", strings.Replace(old, "[{", `[{"ContainerPort":7443,"Protocol":"tcp","HostPort":49825},{`, 1), "10.0.2.20:7443", ""},
	} {
		t.Run(tc.name, func(t *testing.T) {
			p, err := machine{ecs: bridged(tc.container), ec2: instance(dualStack())}.on(t).Find(t.Context())
			if err != nil || p.Silent != nil {
				t.Fatal(err, p.Silent)
			}
			got, err := p.Dialled(netip.MustParseAddrPort(tc.own))
			if tc.want == "" {
				if err == nil || !strings.Contains(err.Error(), "network mode bridge") || !strings.Contains(err.Error(), "advertise to host:port") {
					t.Errorf("got %v, %v", got, err)
				}
				return
			}
			if err != nil || got.String() != tc.want {
				t.Errorf("got %v, %v, want %s", got, err, tc.want)
			}
		})
	}
}

// If ECS does not answer about the ports, that is said.
func TestBridgePortsThatAreNotTold(t *testing.T) {
	p, err := machine{ecs: task("bridge.json"), ec2: instance(dualStack())}.on(t).Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	got, err := p.Dialled(netip.MustParseAddrPort("10.0.2.20:7443"))
	if err == nil || !strings.Contains(err.Error(), "network mode bridge") || !strings.Contains(err.Error(), "asking ECS for this container's ports") {
		t.Errorf("got %v, %v", got, err)
	}
}

// Docker tells the agent the ports a moment after it has started this process.
func TestBridgePortsThatComeLate(t *testing.T) {
	var asked atomic.Int32
	f := machine{ec2: instance(dualStack()), ecs: func(w http.ResponseWriter, r *http.Request) {
		if r.URL.Path == containerPath && asked.Add(1) == 1 {
			_, _ = w.Write([]byte(`{"Name":"router","Networks":[{"NetworkMode":"bridge"}]}`))
			return
		}
		bridged("bridge-container.json")(w, r)
	}}.on(t)
	p, err := f.Find(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if got, err := p.Dialled(netip.MustParseAddrPort("10.0.2.20:7443")); err != nil || got.Port() != 49832 {
		t.Errorf("got %v, %v", got, err)
	}
}

// Elsewhere the port is what it is.
func TestOtherPlacesKeepTheirPorts(t *testing.T) {
	own := netip.MustParseAddrPort("10.0.1.117:7443")
	bridge := machine{ecs: bridged("bridge-container.json"), env: map[string]string{podIPVariable: "10.0.1.117"}}
	for name, on := range map[string]machine{"a task that is told its address": bridge, "a Fargate task": {ecs: task("fargate.json")}, "an instance": {ec2: instance(dualStack())}, "a machine": {}} {
		p, err := on.on(t).Find(t.Context())
		if err != nil {
			t.Fatal(name, err)
		}
		if got, err := p.Dialled(own); err != nil || got != own {
			t.Errorf("%s: got %v, %v", name, got, err)
		}
	}
}

// A service is asked once, however many pools there are, and what it said is
// still good when it is gone.
func TestTheAnswerIsRemembered(t *testing.T) {
	var asked atomic.Int32
	f := machine{ecs: func(w http.ResponseWriter, r *http.Request) {
		if asked.Add(1) > 1 {
			w.WriteHeader(http.StatusInternalServerError)
			return
		}
		task("fargate.json")(w, r)
	}}.on(t)
	for range 3 {
		p, err := f.Find(t.Context())
		if err != nil || p.Source != SourceECS {
			t.Fatalf("found %+v, %v", p, err)
		}
	}
	if n := asked.Load(); n != 1 {
		t.Errorf("ECS was asked %d times", n)
	}
}

// That nobody knew is remembered for the moment only.
func TestSilenceIsForgotten(t *testing.T) {
	f := machine{}.on(t)
	if _, err := f.Find(t.Context()); err != nil {
		t.Fatal(err)
	}
	if left := time.Until(f.until); left <= 0 || left > answerLasts {
		t.Errorf("it is remembered for %v", left)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	f = machine{ec2: instance(dualStack())}.on(t)
	_, _ = f.Find(ctx)
	if p, err := f.Find(t.Context()); err != nil || p.Source != SourceEC2 {
		t.Errorf("after a cancelled attempt: %+v, %v", p, err)
	}
}

// Where packets to the metadata service vanish, starting is not held up for
// long. 192.0.2.0/24 is for documentation (RFC 5737): nobody answers there.
func TestOutsideAWSItIsQuick(t *testing.T) {
	f := machine{}.on(t)
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", "http://192.0.2.1")
	begin := time.Now()
	p, err := f.Find(t.Context())
	if took := time.Since(begin); err != nil || p.Source != SourceInterface || took > patience {
		t.Errorf("found %+v, %v after %v", p, err, took)
	}
}

// Two services that accept connections and say nothing cost two seconds, and no
// more.
func TestBothServicesHang(t *testing.T) {
	begin := time.Now()
	p, err := machine{ecs: silent, ec2: silent}.on(t).Find(t.Context())
	if took := time.Since(begin); err != nil || p.Source != SourceInterface || took > 2*patience+patience/2 {
		t.Errorf("found %+v, %v after %v", p, err, took)
	}
	for _, service := range []string{"asking ECS", "asking EC2"} {
		if p.Silent == nil || !strings.Contains(p.Silent.Error(), service) {
			t.Errorf("it complains of %v, not of %q", p.Silent, service)
		}
	}
}

// A proxy is for the internet, and not for what is on a link-local address.
func TestNoProxyIsAsked(t *testing.T) {
	proxy := serve(t, func(http.ResponseWriter, *http.Request) { t.Error("a proxy was asked") })
	f := machine{ecs: bridged("bridge-container.json"), ec2: instance(dualStack())}.on(t)
	t.Setenv("HTTP_PROXY", proxy.URL)
	t.Setenv("NO_PROXY", "")
	if p, err := f.Find(t.Context()); err != nil || p.Source != SourceEC2 {
		t.Errorf("found %+v, %v", p, err)
	}
}

func TestZoneText(t *testing.T) {
	for _, zone := range []string{"eu-central-1a", "us-west-2-lax-1a", "euc1-az2", " euc1-az2\n"} {
		if zoneText(zone) != strings.TrimSpace(zone) {
			t.Errorf("%q is no zone", zone)
		}
	}
	for _, other := range []string{"", "<html>", "eu central", "EU-CENTRAL-1A", strings.Repeat("a", 41)} {
		if got := zoneText(other); got != "" {
			t.Errorf("%q became zone %q", other, got)
		}
	}
}

func TestDialable(t *testing.T) {
	good := []string{"10.0.0.1", "203.0.113.9", "2001:db8::1", "fd00::1", "::ffff:10.0.0.1"}
	for _, s := range append(good, "", "host", "127.0.0.1", "::1", "169.254.1.1", "fe80::1", "fe80::1%eth0", "0.0.0.0", "224.0.0.1", "10.0.0.1:80") {
		if _, ok := dialable(s); ok != slices.Contains(good, s) {
			t.Errorf("%q: %v", s, ok)
		}
	}
}
