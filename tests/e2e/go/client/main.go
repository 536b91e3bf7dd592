// The test client on Go a2a-go 0.3.x: runs one exchange and prints its transcript as JSON.
//
// Knows nothing of tunnels: it gets a URL, and what it prints is compared by the driver. The words of a
// transcript are those of ../../README.md.
package main

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"crypto/sha3"
	"encoding/base64"
	"encoding/json"
	"fmt"
	"iter"
	"log"
	"math"
	"net"
	"net/http"
	"os"
	"strings"
	"sync"

	"github.com/a2aproject/a2a-go/a2a"
	"github.com/a2aproject/a2a-go/a2aclient"
	"github.com/a2aproject/a2a-go/a2aclient/agentcard"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// What the agent says again and again at the gate of a stream, until it is told to go.
const waiting = "status working waiting"

type params struct {
	Path       string `json:"path"`
	Binding    string `json:"binding"`
	Text       string `json:"text"`
	Count      int    `json:"count"`
	IntervalMS int    `json:"interval_ms"`
	Gate       int    `json:"gate"`
	Size       int    `json:"size"`
	AnswerSize int    `json:"answer_size"`
	Webhook    string `json:"webhook"`
	Token      string `json:"token"`
}

// connection is one SDK client and the sockets below it, so that a test can break them.
type connection struct {
	*a2aclient.Client
	mu      sync.Mutex
	sockets []*net.TCPConn
}

func connect(ctx context.Context, card *a2a.AgentCard, binding string) *connection {
	c := &connection{}
	transport := &http.Transport{DialContext: c.dial}
	limits := grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(math.MaxInt32), grpc.MaxCallSendMsgSize(math.MaxInt32))
	client, err := a2aclient.NewFromCard(ctx, card,
		a2aclient.WithConfig(a2aclient.Config{PreferredTransports: []a2a.TransportProtocol{a2a.TransportProtocol(binding)}}),
		// An agent may think for ten minutes: the SDK's default of three is not for it.
		a2aclient.WithJSONRPCTransport(&http.Client{Transport: transport}),
		a2aclient.WithGRPCTransport(
			grpc.WithTransportCredentials(insecure.NewCredentials()),
			grpc.WithContextDialer(func(ctx context.Context, address string) (net.Conn, error) {
				return c.dial(ctx, "tcp", address)
			}),
			limits,
		),
	)
	check(err)
	c.Client = client
	return c
}

func (c *connection) dial(ctx context.Context, network, address string) (net.Conn, error) {
	socket, err := (&net.Dialer{}).DialContext(ctx, network, address)
	if err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sockets = append(c.sockets, socket.(*net.TCPConn))
	return socket, nil
}

// kill breaks the connection with a RST.
func (c *connection) kill() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, socket := range c.sockets {
		check(socket.SetLinger(0))
		check(socket.Close())
	}
}

func request(text string, parts ...a2a.Part) *a2a.MessageSendParams {
	parts = append([]a2a.Part{a2a.TextPart{Text: text}}, parts...)
	return &a2a.MessageSendParams{Message: a2a.NewMessage(a2a.MessageRoleUser, parts...)}
}

// word is one event of a stream as one line of a transcript.
func word(event a2a.Event) string {
	switch event := event.(type) {
	case *a2a.Message:
		return "message " + textOf(event.Parts)
	case *a2a.Task:
		return fmt.Sprintf("task %s artifacts=%d", event.Status.State, len(event.Artifacts))
	case *a2a.TaskArtifactUpdateEvent:
		return "artifact " + textOf(event.Artifact.Parts)
	case *a2a.TaskStatusUpdateEvent:
		said := ""
		if event.Status.Message != nil {
			said = textOf(event.Status.Message.Parts)
		}
		return strings.TrimSpace(fmt.Sprintf("status %s %s", event.Status.State, said))
	}
	return fmt.Sprintf("unknown event %T", event)
}

// stream is the events of a task, read in pieces.
type stream struct {
	next func() (a2a.Event, error, bool)
	task a2a.TaskID
}

func open(events iter.Seq2[a2a.Event, error]) *stream {
	next, _ := iter.Pull2(events)
	return &stream{next: next}
}

// read notes events (a run of waiting as one), to `until`.
func (s *stream) read(words []string, until string) []string {
	for {
		event, err, more := s.next()
		if !more {
			return words
		}
		check(err)
		s.task = event.TaskInfo().TaskID
		if word(event) != waiting || len(words) == 0 || words[len(words)-1] != waiting {
			words = append(words, word(event))
		}
		if words[len(words)-1] == until {
			return words
		}
	}
}

type transcript map[string]any

func send(ctx context.Context, card *a2a.AgentCard, p params) transcript {
	answer, err := connect(ctx, card, p.Binding).SendMessage(ctx, request(p.Text))
	check(err)
	return transcript{"answer": word(answer)}
}

// streaming reads to the gate, opens it by a second request, and reads to the end.
func streaming(ctx context.Context, card *a2a.AgentCard, p params) transcript {
	client, token := connect(ctx, card, p.Binding), rand.Text()
	events := open(client.SendStreamingMessage(ctx, request(p.streamCommand(token))))
	words := events.read([]string{}, waiting)
	sayGo(ctx, card, p, token)
	words = events.read(words, "")
	return transcript{"events": words, "result": result(ctx, client, events.task)}
}

// resubscribe breaks the connection at the gate, subscribes again on a new one, and only then opens the gate.
func resubscribe(ctx context.Context, card *a2a.AgentCard, p params) transcript {
	broken, token := connect(ctx, card, p.Binding), rand.Text()
	events := open(broken.SendStreamingMessage(ctx, request(p.streamCommand(token))))
	before := events.read([]string{}, waiting)
	broken.kill()

	client := connect(ctx, card, p.Binding)
	again := open(client.ResubscribeToTask(ctx, &a2a.TaskIDParams{ID: events.task}))
	after := again.read([]string{}, waiting)
	sayGo(ctx, card, p, token)
	after = again.read(after, "")
	return transcript{"before": before, "after": after, "result": result(ctx, client, events.task)}
}

func (p params) streamCommand(token string) string {
	return fmt.Sprintf("stream %d %d %d %s", p.Count, p.IntervalMS, p.Gate, token)
}

func sayGo(ctx context.Context, card *a2a.AgentCard, p params, token string) {
	_, err := connect(ctx, card, p.Binding).SendMessage(ctx, request("go "+token))
	check(err)
}

// result is what the agent says of the finished task: a second account, independent of the stream.
func result(ctx context.Context, client *connection, task a2a.TaskID) transcript {
	final, err := client.GetTask(ctx, &a2a.TaskQueryParams{ID: task})
	check(err)
	texts := []string{}
	for _, artifact := range final.Artifacts {
		texts = append(texts, textOf(artifact.Parts))
	}
	return transcript{"state": final.Status.State, "artifacts": texts}
}

func file(ctx context.Context, card *a2a.AgentCard, p params) transcript {
	payload := make([]byte, p.Size)
	shake := sha3.NewSHAKE256()
	shake.Write([]byte("client"))
	shake.Read(payload)
	part := a2a.FilePart{File: a2a.FileBytes{
		FileMeta: a2a.FileMeta{MimeType: "application/octet-stream", Name: "client.bin"},
		Bytes:    base64.StdEncoding.EncodeToString(payload),
	}}
	answer, err := connect(ctx, card, p.Binding).SendMessage(ctx, request(fmt.Sprintf("file %d", p.AnswerSize), part))
	check(err)
	received, err := base64.StdEncoding.DecodeString(fileOf(answer.(*a2a.Message).Parts).Bytes)
	check(err)
	return transcript{
		"agent":  textOf(answer.(*a2a.Message).Parts),
		"client": fmt.Sprintf("received %d %x", len(received), sha256.Sum256(received)),
	}
}

func push(ctx context.Context, card *a2a.AgentCard, p params) transcript {
	client, message := connect(ctx, card, p.Binding), request(fmt.Sprintf("stream %d 20 0 -", p.Count))
	message.Config = &a2a.MessageSendConfig{PushConfig: &a2a.PushConfig{URL: p.Webhook, Token: p.Token}}
	answer, err := client.SendMessage(ctx, message)
	check(err)
	return transcript{"answer": word(answer), "result": result(ctx, client, answer.TaskInfo().TaskID)}
}

func showCard(_ context.Context, card *a2a.AgentCard, _ params) transcript {
	return transcript{"card": card}
}

func textOf(parts a2a.ContentParts) string {
	for _, part := range parts {
		switch part := part.(type) {
		case a2a.TextPart:
			return part.Text
		case *a2a.TextPart:
			return part.Text
		}
	}
	return ""
}

func fileOf(parts a2a.ContentParts) a2a.FileBytes {
	for _, part := range parts {
		if file, ok := part.(a2a.FilePart); ok {
			return file.File.(a2a.FileBytes)
		}
	}
	return a2a.FileBytes{}
}

func main() {
	ctx := context.Background()
	url, exchange := os.Args[1], os.Args[2]
	var p params
	check(json.Unmarshal([]byte(os.Args[3]), &p))
	options := []agentcard.ResolveOption{}
	if p.Path != "" {
		options = append(options, agentcard.WithPath(p.Path))
	}
	card, err := agentcard.NewResolver(nil).Resolve(ctx, url, options...)
	check(err)
	exchanges := map[string]func(context.Context, *a2a.AgentCard, params) transcript{
		"card": showCard, "send": send, "stream": streaming, "resubscribe": resubscribe, "file": file, "push": push,
	}
	check(json.NewEncoder(os.Stdout).Encode(exchanges[exchange](ctx, card, p)))
}

func check(err error) {
	if err != nil {
		log.Fatal(err)
	}
}
