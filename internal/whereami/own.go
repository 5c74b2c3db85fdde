package whereami

import (
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strings"
)

// own returns the addresses of this machine's interfaces that environments can
// dial, at least one if there is no error.
func (f *Finder) own(inPod bool) ([]netip.Addr, error) {
	all, err := f.addresses()
	if err != nil {
		return nil, fmt.Errorf("listing this machine's addresses: %w", err)
	}
	if inPod {
		return ofPod(all)
	}
	private := slices.DeleteFunc(all, func(a netip.Addr) bool { return !a.IsPrivate() })
	if len(private) == 0 {
		return nil, errors.New("this machine has no private address, and neither Kubernetes, ECS nor EC2 tell one: name the host that environments can dial")
	}
	return private, nil
}

// addresses returns what another machine might dial, IPv4 before IPv6.
func (f *Finder) addresses() ([]netip.Addr, error) {
	list := f.interfaces
	if list == nil {
		list = net.InterfaceAddrs
	}
	all, err := list()
	if err != nil {
		return nil, err
	}
	var addrs []netip.Addr
	for _, a := range all {
		n, ok := a.(*net.IPNet)
		if !ok {
			continue
		}
		if addr, ok := dialable(n.IP.String()); ok {
			addrs = append(addrs, addr)
		}
	}
	return v4First(addrs), nil
}

const podAdvice = "set POD_IP from status.podIP (downward API), or set advertise to an address"

// ofPod returns the address that must be the pod's, if it has but one. It may
// have more: as a pod in its node's network, with a second network (Multus), or
// with a bridge of its own (Docker in Docker). IPv6 beside one IPv4 address does
// not count, since IPv4 is what would be dialled: it may lead out of the cluster
// only, as on EKS with ENABLE_V6_EGRESS. The way out by IPv4 of EKS's IPv6 clusters
// is a link-local address, and so none of these.
// Source: https://github.com/aws/amazon-vpc-cni-k8s#enable_v6_egress-v1130
func ofPod(addrs []netip.Addr) ([]netip.Addr, error) {
	if len(addrs) == 0 {
		return nil, errors.New("this pod has no address that environments could dial: " + podAdvice)
	}
	if len(addrs) > 1 && addrs[0].Is4() == addrs[1].Is4() {
		return nil, fmt.Errorf("this pod has several addresses (%v and %v, for two), and environments may be able to dial one only: "+podAdvice, addrs[0], addrs[1])
	}
	return addrs[:1], nil
}

// dialable reads an address that another machine could dial.
func dialable(text string) (netip.Addr, bool) {
	addr, err := netip.ParseAddr(strings.TrimSpace(text))
	if err != nil {
		return netip.Addr{}, false
	}
	addr = addr.Unmap()
	return addr, addr.IsGlobalUnicast() && addr.Zone() == ""
}

// v4First sorts IPv4 before IPv6 and leaves the rest of the order as it is.
func v4First(addrs []netip.Addr) []netip.Addr {
	sorted := make([]netip.Addr, 0, len(addrs))
	for _, a := range addrs {
		if a.Is4() {
			sorted = append(sorted, a)
		}
	}
	for _, a := range addrs {
		if !a.Is4() {
			sorted = append(sorted, a)
		}
	}
	return sorted
}
