package main

import (
	"fmt"
	"os"
	"slices"
	"strings"
)

const (
	resolver = "/usr/local/lib/coredns"
	// Writable in every container.
	corefile = "/dev/shm/Corefile"
)

// What that program was built without.
var missing = []string{"forward", "loadbalance", "loop", "prometheus"}

// Starts CoreDNS with what it understands of the configuration that kubeadm has given it: a name outside the
// cluster is not found, and nobody reads metrics.
func coredns(args []string) error {
	at := slices.Index(args, "-conf") + 1
	if at == 0 || at == len(args) {
		return fmt.Errorf("no -conf FILE among the arguments")
	}
	given, err := os.ReadFile(args[at])
	if err != nil {
		return err
	}
	if err := os.WriteFile(corefile, []byte(understood(string(given))), 0o644); err != nil {
		return err
	}
	args[at] = corefile
	return become(resolver, append([]string{"coredns"}, args...))
}

// The lines of a Corefile without the directives of plugins that are missing, each with its block.
func understood(corefile string) string {
	var kept []string
	depth, leaving := 0, false
	for line := range strings.Lines(corefile) {
		words := strings.Fields(line)
		if depth == 1 && len(words) > 0 && words[0] != "}" {
			leaving = slices.Contains(missing, words[0])
		}
		if line == "}\n" || !leaving {
			kept = append(kept, line)
		}
		depth += strings.Count(line, "{") - strings.Count(line, "}")
		if depth <= 1 && strings.Contains(line, "}") {
			leaving = false
		}
	}
	return strings.Join(kept, "")
}
