package whereami

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
	"slices"
	"strings"
	"time"
)

// The endpoint refuses requests that come too fast, from all containers of its
// host together.
const (
	ecsAttempts = 3
	ecsPause    = 100 * time.Millisecond
)

// maxTask bounds the description of a task, which has an entry for each of its
// containers (ten at most) with all of their labels.
const maxTask = 4 << 20

// The network modes of tasks that matter here.
// Source: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-networking.html
const (
	modeAWSVPC = "awsvpc" // the task has an interface of its own; the only mode on Fargate
	modeBridge = "bridge" // each container has an address that only its host can dial
)

// ecsTask is what the description of a task says about its place.
type ecsTask struct {
	Addrs   []netip.Addr
	Zone    string
	fargate bool
	bridge  bool
	ports   []ecsPort // of this container, in network mode bridge
}

// ecsPort is a port of a container that its host publishes. Where the task lets
// the host choose the port, Docker chooses one for IPv4 and another for IPv6.
// Source: https://github.com/aws/amazon-ecs-agent/issues/3096
type ecsPort struct {
	ContainerPort uint16
	Protocol      string
	HostPort      uint16
	HostIP        string `json:"HostIp"` // older agents do not tell it
}

// leadsTo reports whether the host forwards what is dialled at its address to
// the port of this container.
func (p ecsPort) leadsTo(own netip.AddrPort) bool {
	if p.ContainerPort != own.Port() || p.Protocol != "tcp" || p.HostPort == 0 {
		return false
	}
	on, err := netip.ParseAddr(p.HostIP)
	if err != nil {
		return p.HostIP == ""
	}
	return on == own.Addr() || on.IsUnspecified() && on.Is4() == own.Addr().Is4()
}

// hostPorts returns the host's ports that lead to the port, each once.
func (t ecsTask) hostPorts(own netip.AddrPort) []uint16 {
	var ports []uint16
	for _, p := range t.ports {
		if p.leadsTo(own) && !slices.Contains(ports, p.HostPort) {
			ports = append(ports, p.HostPort)
		}
	}
	return ports
}

type ecsContainer struct {
	Networks []struct {
		NetworkMode   string
		IPv4Addresses []string
		IPv6Addresses []string
	}
	Ports []ecsPort
}

// askECS asks the task metadata endpoint, version 4, for the network interface
// of this task. There is one only in network mode awsvpc, which Fargate always
// uses; in the modes bridge and host, environments dial the EC2 instance, in the
// former at the port that it publishes for this container.
// Sources: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-response.html,
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html
func askECS(ctx context.Context, endpoint string) (ecsTask, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	endpoint = strings.TrimSuffix(endpoint, "/")
	var task ecsTask
	err := tryECS(ctx, func() (err error) {
		task, err = readTask(ctx, endpoint+"/task")
		return err
	})
	if err != nil {
		return ecsTask{}, fmt.Errorf("asking ECS for this task's address: %w", err)
	}
	if !task.bridge {
		return task, nil
	}
	err = tryECS(ctx, func() (err error) {
		task.ports, err = readPorts(ctx, endpoint)
		return err
	})
	if err != nil && !errors.Is(err, errUnpublished) {
		return task, fmt.Errorf("asking ECS for this container's ports: %w", err)
	}
	return task, nil
}

func tryECS(ctx context.Context, read func() error) (failed error) {
	for range ecsAttempts {
		err := read()
		if err == nil {
			return nil
		}
		if ctx.Err() == nil || failed == nil {
			failed = err
		}
		select {
		case <-time.After(ecsPause):
		case <-ctx.Done():
		}
	}
	return failed
}

func readTask(ctx context.Context, url string) (ecsTask, error) {
	var said struct {
		LaunchType       string
		AvailabilityZone string
		Containers       []ecsContainer
	}
	if err := readECS(ctx, url, &said); err != nil {
		return ecsTask{}, err
	}
	task := ecsTask{Zone: zoneText(said.AvailabilityZone), fargate: said.LaunchType == "FARGATE"}
	for _, c := range said.Containers {
		for _, n := range c.Networks {
			task.bridge = task.bridge || n.NetworkMode == modeBridge
			if n.NetworkMode != modeAWSVPC {
				continue
			}
			for _, text := range append(n.IPv4Addresses, n.IPv6Addresses...) {
				if addr, ok := dialable(text); ok {
					task.Addrs = append(task.Addrs, addr)
				}
			}
			if len(task.Addrs) > 0 {
				return task, nil // all containers of a task share its interface
			}
		}
	}
	return task, nil
}

// errUnpublished is that ECS names no port. It learns them from Docker when the
// container has been started, which this process can be quicker than.
var errUnpublished = errors.New("no port is published")

// readPorts asks for this very container: in network mode bridge, another one of
// the task can have the same port.
func readPorts(ctx context.Context, url string) ([]ecsPort, error) {
	var said ecsContainer
	if err := readECS(ctx, url, &said); err != nil {
		return nil, err
	}
	if len(said.Ports) == 0 {
		return nil, errUnpublished
	}
	return said.Ports, nil
}

func readECS(ctx context.Context, url string, said any) error {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return err
	}
	resp, err := ecsClient.Do(req)
	if err != nil {
		return err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return fmt.Errorf("the task metadata endpoint answers with status %d", resp.StatusCode)
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTask)).Decode(said); err != nil {
		return fmt.Errorf("reading task metadata: %w", err)
	}
	return nil
}

// ecsClient asks no proxy for what is on a link-local address.
var ecsClient = &http.Client{
	Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: dialPatience}).DialContext,
		DisableKeepAlives: true,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
