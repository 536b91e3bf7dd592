// The small programs of the node image: one binary, which does what the name asks for under which it is called.
//
// Kubernetes' parts are one program, too, that wants to be told which of them to be; the container that only holds a
// pod's namespaces, the choice between the two kinds of iptables, what CoreDNS is told, and what stands in for kindnet
// need no more than this.
package main

import (
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
)

// Where the program is that has all of Kubernetes' parts.
const kube = "/usr/local/lib/kube"

// The parts of it, by the names under which everybody else knows them.
var parts = map[string]string{
	"etcd":                    "etcd",
	"kube-apiserver":          "apiserver",
	"kube-controller-manager": "controller-manager",
	"kube-proxy":              "proxy",
	"kube-scheduler":          "scheduler",
	"kubectl":                 "ctl",
	"kubelet":                 "kubelet",
}

func main() {
	name := filepath.Base(os.Args[0])
	var err error
	switch {
	case parts[name] != "":
		err = become(kube, append([]string{"kube", parts[name]}, os.Args[1:]...))
	case strings.HasPrefix(name, "iptables") || strings.HasPrefix(name, "ip6tables"):
		err = become("/usr/sbin/xtables-"+kindOfTables()+"-multi", append([]string{name}, os.Args[1:]...))
	case name == "coredns":
		err = coredns(os.Args[1:])
	case name == "pause":
		pause()
	case name == "kindnet":
		err = kindnet()
	default:
		err = fmt.Errorf("there is no program of this name")
	}
	fmt.Fprintf(os.Stderr, "%s: %v\n", name, err)
	os.Exit(1)
}

// Ends only if the program cannot be started.
func become(program string, argv []string) error {
	return fmt.Errorf("%s: %w", program, syscall.Exec(program, argv, os.Environ()))
}

// The kind that the kubelet of this node uses: it leaves a chain where it has looked.
func kindOfTables() string {
	for _, kind := range []string{"nft", "legacy"} {
		said, _ := exec.Command("/usr/sbin/xtables-"+kind+"-multi", "iptables-save", "-t", "mangle").Output()
		if strings.Contains(string(said), ":KUBE-IPTABLES-HINT") || strings.Contains(string(said), ":KUBE-KUBELET-CANARY") {
			return kind
		}
	}
	return "nft"
}

// Holds the namespaces of a pod, whose orphans become its children.
func pause() {
	for {
		if _, err := syscall.Wait4(-1, nil, 0, nil); err == syscall.ECHILD {
			_ = syscall.Pause()
		}
	}
}
