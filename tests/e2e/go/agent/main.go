// The test agent on Go a2a-go 0.3.x: JSON-RPC and gRPC from one executor.
//
// Owns the commands of ../../README.md and nothing else; the SDK owns every byte on the wire.
package main

import (
	"context"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/json"
	"flag"
	"fmt"
	"io"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/a2aproject/a2a-go/a2a"
	"github.com/a2aproject/a2a-go/a2agrpc"
	"github.com/a2aproject/a2a-go/a2asrv"
	"github.com/a2aproject/a2a-go/a2asrv/eventqueue"
	"github.com/a2aproject/a2a-go/a2asrv/push"
	"google.golang.org/grpc"
)

// Longer than any pause a client may make at a gate, so that a lost `go` fails a test, not hangs it.
const gateTimeout = 60 * time.Second

// commands answers the text commands of ../../README.md.
type commands struct {
	mu    sync.Mutex
	gates map[string]chan struct{}
}

func (c *commands) Execute(ctx context.Context, req *a2asrv.RequestContext, queue eventqueue.Queue) error {
	words := strings.Fields(textOf(req.Message))
	if words[0] == "stream" {
		return c.stream(ctx, req, queue, words[1:])
	}
	parts, err := c.answer(req.Message, words)
	if err != nil {
		return err
	}
	return queue.Write(ctx, a2a.NewMessage(a2a.MessageRoleAgent, parts...))
}

// answer is the single message that answers a command which makes no task.
func (c *commands) answer(message *a2a.Message, words []string) ([]a2a.Part, error) {
	switch words[0] {
	case "echo":
		return []a2a.Part{a2a.TextPart{Text: strings.Join(words, " ")}}, nil
	case "go":
		close(c.gate(words[1]))
		return []a2a.Part{a2a.TextPart{Text: "going"}}, nil
	case "silence":
		seconds, err := strconv.ParseFloat(words[1], 64)
		time.Sleep(time.Duration(seconds * float64(time.Second)))
		return []a2a.Part{a2a.TextPart{Text: "after " + words[1]}}, err
	case "file":
		size, err := strconv.Atoi(words[1])
		if err != nil {
			return nil, err
		}
		received, err := base64.StdEncoding.DecodeString(fileOf(message).Bytes)
		if err != nil {
			return nil, err
		}
		payload := make([]byte, size)
		shake := sha3.NewSHAKE256()
		shake.Write([]byte("agent"))
		shake.Read(payload)
		return []a2a.Part{
			a2a.TextPart{Text: fmt.Sprintf("received %d %x", len(received), sha256.Sum256(received))},
			a2a.FilePart{File: a2a.FileBytes{
				FileMeta: a2a.FileMeta{MimeType: "application/octet-stream", Name: "agent.bin"},
				Bytes:    base64.StdEncoding.EncodeToString(payload),
			}},
		}, nil
	}
	return []a2a.Part{a2a.TextPart{Text: "unknown command"}}, nil
}

func (c *commands) stream(ctx context.Context, req *a2asrv.RequestContext, queue eventqueue.Queue, words []string) error {
	count, interval, gate, err := numbers(words)
	if err != nil {
		return err
	}
	if err := queue.Write(ctx, a2a.NewSubmittedTask(req, req.Message)); err != nil {
		return err
	}
	if err := queue.Write(ctx, a2a.NewStatusUpdateEvent(req, a2a.TaskStateWorking, nil)); err != nil {
		return err
	}
	for number := range count {
		if number == gate && gate > 0 {
			if err := c.waitAtGate(ctx, req, queue, words[3]); err != nil {
				return err
			}
		}
		event := a2a.NewArtifactEvent(req, a2a.TextPart{Text: fmt.Sprintf("chunk %d", number)})
		event.Artifact.Name = fmt.Sprintf("chunk-%d", number)
		if err := queue.Write(ctx, event); err != nil {
			return err
		}
		time.Sleep(interval)
	}
	done := a2a.NewStatusUpdateEvent(req, a2a.TaskStateCompleted, nil)
	done.Final = true
	return queue.Write(ctx, done)
}

func numbers(words []string) (count int, interval time.Duration, gate int, err error) {
	var milliseconds int
	_, err = fmt.Sscan(strings.Join(words[:3], " "), &count, &milliseconds, &gate)
	return count, time.Duration(milliseconds) * time.Millisecond, gate, err
}

// waitAtGate says `waiting` until the client said `go`: every such event was sent before what follows.
func (c *commands) waitAtGate(ctx context.Context, req *a2asrv.RequestContext, queue eventqueue.Queue, token string) error {
	opened, deadline := c.gate(token), time.After(gateTimeout)
	for {
		waiting := a2a.NewMessageForTask(a2a.MessageRoleAgent, req, a2a.TextPart{Text: "waiting"})
		if err := queue.Write(ctx, a2a.NewStatusUpdateEvent(req, a2a.TaskStateWorking, waiting)); err != nil {
			return err
		}
		select {
		case <-opened:
			return nil
		case <-deadline:
			return fmt.Errorf("nobody opened gate %s", token)
		case <-time.After(100 * time.Millisecond):
		}
	}
}

func (c *commands) gate(token string) chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gates[token] == nil {
		c.gates[token] = make(chan struct{})
	}
	return c.gates[token]
}

func (c *commands) Cancel(context.Context, *a2asrv.RequestContext, eventqueue.Queue) error {
	return fmt.Errorf("no command is cancelled")
}

func textOf(message *a2a.Message) string {
	for _, part := range message.Parts {
		if text, ok := part.(a2a.TextPart); ok {
			return text.Text
		}
	}
	return ""
}

func fileOf(message *a2a.Message) a2a.FileBytes {
	for _, part := range message.Parts {
		if file, ok := part.(a2a.FilePart); ok {
			return file.File.(a2a.FileBytes)
		}
	}
	return a2a.FileBytes{}
}

func card(httpAddress, grpcAddress string) *a2a.AgentCard {
	return &a2a.AgentCard{
		Name:               "go",
		Description:        "End-to-end test agent",
		Version:            "1",
		ProtocolVersion:    string(a2a.Version),
		URL:                "http://" + httpAddress + "/",
		PreferredTransport: a2a.TransportProtocolJSONRPC,
		AdditionalInterfaces: []a2a.AgentInterface{
			{Transport: a2a.TransportProtocolGRPC, URL: grpcAddress},
		},
		Capabilities:       a2a.AgentCapabilities{Streaming: true, PushNotifications: true},
		DefaultInputModes:  []string{"text/plain"},
		DefaultOutputModes: []string{"text/plain"},
		Skills:             []a2a.AgentSkill{{ID: "commands", Name: "commands", Description: "Text commands", Tags: []string{"test"}}},
	}
}

func main() {
	listen := flag.String("listen", "127.0.0.1", "address to bind, at free ports")
	advertiseHTTP := flag.String("advertise-http", "", "HOST:PORT the card shows instead of the bound one")
	advertiseGRPC := flag.String("advertise-grpc", "", "the same for gRPC")
	flag.Parse()
	httpListener, grpcListener := bind(*listen), bind(*listen)
	httpAddress, grpcAddress := httpListener.Addr().String(), grpcListener.Addr().String()

	agentCard := card(or(*advertiseHTTP, httpAddress), or(*advertiseGRPC, grpcAddress))
	handler := a2asrv.NewHandler(
		&commands{gates: map[string]chan struct{}{}},
		a2asrv.WithPushNotifications(push.NewInMemoryStore(), push.NewHTTPPushSender(nil)),
	)
	mux := http.NewServeMux()
	mux.Handle(a2asrv.WellKnownAgentCardPath, a2asrv.NewStaticAgentCardHandler(agentCard))
	// The SDK names the current path only: the old one is its card handler mounted a second time.
	mux.Handle("/.well-known/agent.json", a2asrv.NewStaticAgentCardHandler(agentCard))
	mux.Handle("/", a2asrv.NewJSONRPCHandler(handler))
	server := grpc.NewServer(grpc.MaxRecvMsgSize(math.MaxInt32), grpc.MaxSendMsgSize(math.MaxInt32))
	a2agrpc.NewHandler(handler).RegisterWith(server)

	go func() { log.Fatal(server.Serve(grpcListener)) }()
	go func() { log.Fatal(http.Serve(httpListener, mux)) }()
	if err := json.NewEncoder(os.Stdout).Encode(map[string]string{"http": httpAddress, "grpc": grpcAddress}); err != nil {
		log.Fatal(err)
	}
	// The driver holds our standard input; its end, however it ends, is ours.
	_, _ = io.Copy(io.Discard, os.Stdin)
}

func bind(address string) net.Listener {
	listener, err := net.Listen("tcp", net.JoinHostPort(address, "0"))
	if err != nil {
		log.Fatal(err)
	}
	return listener
}

func or(wanted, fallback string) string {
	if wanted == "" {
		return fallback
	}
	return wanted
}
