package main

import (
	"crypto/tls"
	"crypto/x509"
	"encoding/json"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"time"
)

const (
	account = "/var/run/secrets/kubernetes.io/serviceaccount"
	// The node's own file system, whose ip and iptables are used, and the folder in it that containerd reads.
	host   = "/host"
	config = host + "/etc/cni/net.d/10-kindnet.conflist"
	every  = 2 * time.Second
)

type nodes struct {
	Items []struct {
		Spec   struct{ PodCIDR string }
		Status struct {
			Addresses []struct{ Type, Address string }
		}
	}
}

// Does what kindnet does for this project: gives each node's pods their range, leads to the others' ranges through their
// nodes, and hides pods behind their node from all that is not a pod.
func kindnet() error {
	own, pods := os.Getenv("HOST_IP"), os.Getenv("POD_SUBNET")
	for {
		if err := once(own, pods); err != nil {
			fmt.Fprintln(os.Stderr, "kindnet:", err)
		}
		time.Sleep(every)
	}
}

func once(own, pods string) error {
	found, err := list()
	if err != nil {
		return err
	}
	for _, node := range found.Items {
		if node.Spec.PodCIDR == "" {
			continue
		}
		for _, address := range node.Status.Addresses {
			switch {
			case address.Type != "InternalIP":
			case address.Address == own:
				err = configure(node.Spec.PodCIDR)
			default:
				err = onHost("ip", "route", "replace", node.Spec.PodCIDR, "via", address.Address)
			}
			if err != nil {
				return err
			}
		}
	}
	return masquerade(pods)
}

func list() (*nodes, error) {
	token, err := os.ReadFile(account + "/token")
	if err != nil {
		return nil, err
	}
	authority, err := os.ReadFile(account + "/ca.crt")
	if err != nil {
		return nil, err
	}
	roots := x509.NewCertPool()
	roots.AppendCertsFromPEM(authority)
	transport := &http.Transport{TLSClientConfig: &tls.Config{RootCAs: roots}, DisableKeepAlives: true}
	client := http.Client{Transport: transport, Timeout: 10 * time.Second}
	request, err := http.NewRequest("GET", "https://"+os.Getenv("CONTROL_PLANE_ENDPOINT")+"/api/v1/nodes", nil)
	if err != nil {
		return nil, err
	}
	request.Header.Set("Authorization", "Bearer "+string(token))
	answer, err := client.Do(request)
	if err != nil {
		return nil, err
	}
	defer answer.Body.Close()
	if answer.StatusCode != http.StatusOK {
		return nil, fmt.Errorf("%s: %s", request.URL, answer.Status)
	}
	found := &nodes{}
	return found, json.NewDecoder(answer.Body).Decode(found)
}

// Tells containerd how to give a pod its network; once, as long as nothing changes.
func configure(podCIDR string) error {
	wanted := fmt.Sprintf(`{
  "cniVersion": "0.3.1",
  "name": "kindnet",
  "plugins": [
    {
      "type": "ptp",
      "ipMasq": false,
      "mtu": 1500,
      "ipam": {
        "type": "host-local",
        "dataDir": "/run/cni-ipam-state",
        "routes": [{"dst": "0.0.0.0/0"}],
        "ranges": [[{"subnet": %q}]]
      }
    },
    {"type": "portmap", "capabilities": {"portMappings": true}}
  ]
}
`, podCIDR)
	if have, _ := os.ReadFile(config); string(have) == wanted {
		return nil
	}
	// Whole, or not there.
	if err := os.MkdirAll(filepath.Dir(config), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(config+".new", []byte(wanted), 0o644); err != nil {
		return err
	}
	return os.Rename(config+".new", config)
}

// The same rules as kindnet's: what a pod sends to an address of its own node keeps its source, and so does what it
// sends to other pods.
func masquerade(pods string) error {
	const chain = "KIND-MASQ-AGENT"
	// An error means that it is there.
	_ = onHost("iptables", "-w", "-t", "nat", "-N", chain)
	rules := [][]string{
		{"POSTROUTING", "-m", "addrtype", "!", "--dst-type", "LOCAL", "-j", chain},
		{chain, "-d", pods, "-j", "RETURN"},
		{chain, "-j", "MASQUERADE"},
	}
	for _, rule := range rules {
		if onHost(append([]string{"iptables", "-w", "-t", "nat", "-C"}, rule...)...) == nil {
			continue
		}
		if err := onHost(append([]string{"iptables", "-w", "-t", "nat", "-A"}, rule...)...); err != nil {
			return err
		}
	}
	return nil
}

// Runs a program of the node, in its file system.
func onHost(argv ...string) error {
	command := exec.Command("/usr/sbin/"+argv[0], argv[1:]...)
	command.SysProcAttr = &syscall.SysProcAttr{Chroot: host}
	command.Dir = "/"
	if said, err := command.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(argv, " "), err, said)
	}
	return nil
}
