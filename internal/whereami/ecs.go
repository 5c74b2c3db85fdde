package whereami

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/netip"
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

// ecsTask is what the description of a task says about its place.
type ecsTask struct {
	Addrs   []netip.Addr
	Zone    string
	fargate bool
}

// askECS asks the task metadata endpoint, version 4, for the network interface
// of this task. There is one only in network mode awsvpc, which Fargate always
// uses; in the modes bridge and host, environments dial the EC2 instance.
// Sources: https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-response.html,
// https://docs.aws.amazon.com/AmazonECS/latest/developerguide/task-metadata-endpoint-v4-fargate-response.html
func askECS(ctx context.Context, endpoint string) (ecsTask, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	var failed error
	for range ecsAttempts {
		task, err := readTask(ctx, strings.TrimSuffix(endpoint, "/")+"/task")
		if err == nil {
			return task, nil
		}
		if ctx.Err() == nil || failed == nil {
			failed = err
		}
		select {
		case <-time.After(ecsPause):
		case <-ctx.Done():
		}
	}
	return ecsTask{}, fmt.Errorf("asking ECS for this task's address: %w", failed)
}

func readTask(ctx context.Context, url string) (ecsTask, error) {
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, nil)
	if err != nil {
		return ecsTask{}, err
	}
	resp, err := ecsClient.Do(req)
	if err != nil {
		return ecsTask{}, err
	}
	defer func() { _ = resp.Body.Close() }()
	if resp.StatusCode != http.StatusOK {
		return ecsTask{}, fmt.Errorf("the task metadata endpoint answers with status %d", resp.StatusCode)
	}
	var said struct {
		LaunchType       string
		AvailabilityZone string
		Containers       []struct {
			Networks []struct {
				NetworkMode   string
				IPv4Addresses []string
				IPv6Addresses []string
			}
		}
	}
	if err := json.NewDecoder(io.LimitReader(resp.Body, maxTask)).Decode(&said); err != nil {
		return ecsTask{}, fmt.Errorf("reading task metadata: %w", err)
	}
	task := ecsTask{Zone: zoneText(said.AvailabilityZone), fargate: said.LaunchType == "FARGATE"}
	for _, c := range said.Containers {
		for _, n := range c.Networks {
			if n.NetworkMode != "awsvpc" {
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

// ecsClient asks no proxy for what is on a link-local address.
var ecsClient = &http.Client{
	Transport: &http.Transport{
		DialContext:       (&net.Dialer{Timeout: dialPatience}).DialContext,
		DisableKeepAlives: true,
	},
	CheckRedirect: func(*http.Request, []*http.Request) error { return http.ErrUseLastResponse },
}
