package caddymodule

import (
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"go.uber.org/zap"
	"go.uber.org/zap/zaptest/observer"

	"github.com/lambda-dispatch/lambda-dispatch/internal/whereami"
)

// onFargate makes this process seem to be a Fargate task, and returns how often
// it was asked for.
func onFargate(t *testing.T, address string) (asked func() int) {
	t.Helper()
	n := 0
	srv := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		n++ // requests are one after the other here
		_, _ = w.Write([]byte(`{"LaunchType":"FARGATE","AvailabilityZone":"eu-central-1b","Containers":[
			{"Networks":[{"NetworkMode":"awsvpc",` + address + `}]}]}`))
	}))
	t.Cleanup(srv.Close)
	t.Setenv("ECS_CONTAINER_METADATA_URI_V4", srv.URL+"/v4/id")
	for _, name := range []string{"POD_IP", "POD_IPS", "KUBERNETES_SERVICE_HOST"} {
		t.Setenv(name, "")
	}
	return func() int { return n }
}

const (
	bothVersions = `"IPv4Addresses":["10.0.1.117"],"IPv6Addresses":["2001:db8::117"]`
	onlyV6       = `"IPv6Addresses":["2001:db8::117"]`
)

func TestLocate(t *testing.T) {
	for _, tc := range []struct {
		name, addresses string
		conf            CallbackConfig
		bound           string // [::]:7443 if it is empty
		local           bool
		want            place
		asks            bool
	}{
		{name: "auto", want: place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b"}, asks: true},
		{name: "auto with the IDs of the zones", conf: CallbackConfig{Zone: "eu-central-1a=euc1-az2,eu-central-1b=euc1-az3"},
			want: place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b", zoneID: "euc1-az3"}, asks: true},
		{name: "auto, without the ID of this zone", conf: CallbackConfig{Zone: "eu-central-1a=euc1-az2"},
			want: place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b"}, asks: true},
		{name: "auto, with a zone ID", conf: CallbackConfig{Zone: "euc1-az1"},
			want: place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b", zoneID: "euc1-az1"}, asks: true},
		{name: "only IPv6", addresses: onlyV6, want: place{address: "[2001:db8::117]:7443", source: "ecs", zone: "eu-central-1b"}, asks: true},
		{name: "IPv4 only is heard", bound: "0.0.0.0:7443", want: place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b"}, asks: true},
		{name: "an address in listen", bound: "10.0.0.9:7443", want: place{address: "10.0.0.9:7443", source: "listen", zone: "eu-central-1b"}, asks: true},
		{name: "the loopback in listen", bound: "127.0.0.1:7443", want: place{address: "127.0.0.1:7443", source: "listen"}},
		{name: "a setting", conf: CallbackConfig{Advertise: "router.internal"},
			want: place{address: "router.internal:7443", source: "advertise", zone: "eu-central-1b"}, asks: true},
		{name: "a setting with a port", conf: CallbackConfig{Advertise: "[2001:db8::9]:443", Zone: "off"},
			want: place{address: "[2001:db8::9]:443", source: "advertise"}},
		{name: "everything is set", conf: CallbackConfig{Advertise: "10.9.9.9", Zone: "euc1-az1"},
			want: place{address: "10.9.9.9:7443", source: "advertise", zoneID: "euc1-az1"}},
		{name: "the local Lambda", local: true, want: place{address: "127.0.0.1:7443", source: "local"}},
	} {
		t.Run(tc.name, func(t *testing.T) {
			addresses := tc.addresses
			if addresses == "" {
				addresses = bothVersions
			}
			asked := onFargate(t, addresses)
			conf := tc.conf
			if err := conf.provision(tc.local); err != nil {
				t.Fatal(err)
			}
			got, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo(tc.bound), tc.local)
			if err != nil || got != tc.want {
				t.Errorf("got %+v, %v, want %+v", got, err, tc.want)
			}
			if (asked() > 0) != tc.asks {
				t.Errorf("ECS was asked %d times", asked())
			}
		})
	}
}

// onInstance makes this process seem to be a container of ECS on an EC2 instance,
// in network mode bridge.
func onInstance(t *testing.T) {
	t.Helper()
	mux := http.NewServeMux()
	for path, answer := range map[string]string{
		"GET /v4/id/task": `{"LaunchType":"EC2","AvailabilityZone":"eu-central-1b","Containers":[{"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"]}]}]}`,
		"GET /v4/id": `{"Ports":[{"ContainerPort":7443,"Protocol":"tcp","HostPort":49832,"HostIp":"0.0.0.0"},
			{"ContainerPort":7443,"Protocol":"tcp","HostPort":49825,"HostIp":"::"}],"Networks":[{"NetworkMode":"bridge","IPv4Addresses":["172.17.0.2"]}]}`,
		"GET /latest/meta-data/local-ipv4": "10.0.2.20",
	} {
		mux.HandleFunc(path, func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte(answer)) })
	}
	mux.HandleFunc("PUT /latest/api/token", func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("X-Aws-Ec2-Metadata-Token-Ttl-Seconds", r.Header.Get("X-Aws-Ec2-Metadata-Token-Ttl-Seconds"))
		_, _ = w.Write([]byte("t0ken"))
	})
	srv := httptest.NewServer(mux)
	t.Cleanup(srv.Close)
	t.Setenv("ECS_CONTAINER_METADATA_URI_V4", srv.URL+"/v4/id")
	t.Setenv("AWS_EC2_METADATA_SERVICE_ENDPOINT", srv.URL)
	t.Setenv("AWS_EC2_METADATA_DISABLED", "false")
	for _, name := range []string{"POD_IP", "POD_IPS", "KUBERNETES_SERVICE_HOST", "AWS_PROFILE"} {
		t.Setenv(name, "")
	}
}

// In network mode bridge, environments dial the host, at the port that it
// publishes for the one that is listened on.
func TestLocateInBridgeMode(t *testing.T) {
	onInstance(t)
	var conf CallbackConfig
	if err := conf.provision(false); err != nil {
		t.Fatal(err)
	}
	want := place{address: "10.0.2.20:49832", source: "ec2", zone: "eu-central-1b"}
	if got, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo(""), false); err != nil || got != want {
		t.Errorf("got %+v, %v, want %+v", got, err, want)
	}
	_, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo("[::]:8443"), false)
	if err == nil || !strings.Contains(err.Error(), "callback advertise auto") || !strings.Contains(err.Error(), "TCP port 8443") {
		t.Errorf("a port that is not published: %v", err)
	}
	conf.Advertise = "router.internal:443"
	if got, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo("[::]:8443"), false); err != nil || got.address != "router.internal:443" {
		t.Errorf("an explicit setting: %+v, %v", got, err)
	}
}

func boundTo(address string) net.Addr {
	if address == "" {
		address = "[::]:7443"
	}
	addr, err := net.ResolveTCPAddr("tcp", address)
	if err != nil {
		panic(err)
	}
	return addr
}

func TestLocateFails(t *testing.T) {
	onFargate(t, onlyV6)
	conf := CallbackConfig{Listen: "0.0.0.0:7443"}
	if err := conf.provision(false); err != nil {
		t.Fatal(err)
	}
	if _, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo("0.0.0.0:7443"), false); err == nil || !strings.Contains(err.Error(), "IPv4 only") {
		t.Errorf("a listener that does not hear IPv6: %v", err)
	}
	t.Setenv("POD_IP", "status.podIP")
	if _, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo(""), false); err == nil || !strings.Contains(err.Error(), "POD_IP") {
		t.Errorf("POD_IP makes no sense: %v", err)
	}
	conf.Advertise = "10.0.0.1" // then it does not matter
	if p, err := locate(t.Context(), new(whereami.Finder), &conf, boundTo(""), false); err != nil || p.address != "10.0.0.1:7443" {
		t.Errorf("an explicit setting: %+v, %v", p, err)
	}
}

func TestParseZone(t *testing.T) {
	for _, bad := range []string{"eu-central-1a", "euc1", "euc1-az2=eu-central-1a", "eu-central-1a=euc1-az2,", "eu-central-1a=x", "x", "=", ","} {
		if set, err := parseZone(bad); err == nil {
			t.Errorf("%q became %+v", bad, set)
		}
	}
	if _, err := parseZone("eu-central-1a"); !strings.Contains(err.Error(), "describe-availability-zones") {
		t.Errorf("it is not said where to look: %v", err)
	}
	for _, id := range []string{"use1-az1", "usw2-lax1-az1", "use1-wl1-bos-wlz1", "apne1-az4"} {
		if set, err := parseZone(id); err != nil || set.id != id {
			t.Errorf("%q became %+v, %v", id, set, err)
		}
	}
	set, err := parseZone("us-gov-west-1a=usgw1-az1,us-west-2-lax-1a=usw2-lax1-az1")
	if err != nil || len(set.names) != 2 {
		t.Errorf("got %+v, %v", set, err)
	}
}

// One line says where environments will dial, however many pools there are and
// however often the configuration is loaded, and another when that changes.
func TestTheAddressIsLoggedOnce(t *testing.T) {
	core, logs := observer.New(zap.DebugLevel)
	l := &callbackListener{log: zap.New(core)}
	p := place{address: "10.0.1.117:7443", source: "ecs", zone: "eu-central-1b", zoneID: "euc1-az3"}
	l.tell(p)
	l.tell(p)
	p.silent = "asking EC2: status 401"
	l.tell(p)
	all := logs.All()
	if len(all) != 2 || all[0].Level != zap.InfoLevel || all[1].Level != zap.WarnLevel {
		t.Fatalf("lines are %v", all)
	}
	said := all[0].ContextMap()
	for field, want := range map[string]string{"address": p.address, "source": "ecs", "zone": "eu-central-1b", "zone_id": "euc1-az3"} {
		if said[field] != want {
			t.Errorf("%s is %v, want %s", field, said[field], want)
		}
	}
}
