package locallambda

import (
	"fmt"
	"os"
)

// ephemeralPorts asks the kernel. https://docs.kernel.org/networking/ip-sysctl.html
func ephemeralPorts() (low, high int) {
	b, err := os.ReadFile("/proc/sys/net/ipv4/ip_local_port_range")
	if err == nil {
		if _, err := fmt.Sscan(string(b), &low, &high); err == nil && 0 < low && low <= high {
			return low, high
		}
	}
	return 32768, 60999
}
