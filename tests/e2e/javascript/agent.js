// The test agent on JavaScript @a2a-js/sdk 1.x: JSON-RPC, REST and gRPC from one executor.
//
// Owns the commands of ../README.md and nothing else; the SDK owns every byte on the wire.

import { createHash, randomUUID } from 'node:crypto';
import { once } from 'node:events';
import { parseArgs } from 'node:util';
import { setTimeout as sleep } from 'node:timers/promises';

import { AgentCard, Role, TaskState } from '@a2a-js/sdk';
import { AgentEvent, DefaultRequestHandler, InMemoryTaskStore } from '@a2a-js/sdk/server';
import { UserBuilder, agentCardHandler, jsonRpcHandler, restHandler } from '@a2a-js/sdk/server/express';
import { A2AService, UserBuilder as GrpcUserBuilder, grpcService } from '@a2a-js/sdk/server/grpc';
import { Server, ServerCredentials } from '@grpc/grpc-js';
import express from 'express';

// Longer than any pause a client may make at a gate, so that a lost `go` fails a test, not hangs it.
const GATE_MS = 60_000;

// Answers the text commands of ../README.md.
class Commands {
  opened = new Set();

  async execute(request, bus) {
    const message = request.userMessage;
    const words = textOf(message).split(/\s+/);
    if (words[0] === 'stream') {
      await this.stream(request, bus, ...words.slice(1));
    } else {
      bus.publish(AgentEvent.message(agentMessage(request, await this.answer(message, words))));
    }
    bus.finished();
  }

  // The parts of the single message that answers a command which makes no task.
  async answer(message, [command, argument, ...rest]) {
    switch (command) {
      case 'echo':
        return [textPart(['echo', argument, ...rest].join(' '))];
      case 'go':
        this.opened.add(argument);
        return [textPart('going')];
      case 'silence':
        await sleep(Number(argument) * 1000);
        return [textPart('after ' + argument)];
      case 'file': {
        const received = message.parts.find((part) => part.content.$case === 'raw').content.value;
        const seen = createHash('sha256').update(received).digest('hex');
        const value = createHash('shake256', { outputLength: Number(argument) }).update('agent').digest();
        return [
          textPart(`received ${received.length} ${seen}`),
          part({ $case: 'raw', value }, 'application/octet-stream', 'agent.bin'),
        ];
      }
      default:
        return [textPart('unknown command')];
    }
  }

  async stream(request, bus, count, intervalMs, gate, token) {
    bus.publish(AgentEvent.task({
      id: request.taskId,
      contextId: request.contextId,
      status: status(TaskState.TASK_STATE_SUBMITTED),
      artifacts: [],
      history: [request.userMessage],
      metadata: {},
    }));
    publishStatus(request, bus, TaskState.TASK_STATE_WORKING);
    for (let number = 0; number < Number(count); number++) {
      if (number > 0 && number === Number(gate)) {
        await this.waitAtGate(request, bus, token);
      }
      bus.publish(AgentEvent.artifactUpdate({
        taskId: request.taskId,
        contextId: request.contextId,
        artifact: {
          artifactId: randomUUID(),
          name: `chunk-${number}`,
          description: '',
          parts: [textPart(`chunk ${number}`)],
          metadata: {},
          extensions: [],
        },
        append: false,
        lastChunk: false,
        metadata: {},
      }));
      await sleep(Number(intervalMs));
    }
    publishStatus(request, bus, TaskState.TASK_STATE_COMPLETED);
  }

  // Says `waiting` until the client said `go`: every such event was sent before what follows.
  async waitAtGate(request, bus, token) {
    const deadline = Date.now() + GATE_MS;
    while (!this.opened.has(token)) {
      if (Date.now() > deadline) {
        throw new Error(`nobody opened gate ${token}`);
      }
      publishStatus(request, bus, TaskState.TASK_STATE_WORKING, agentMessage(request, [textPart('waiting')]));
      await sleep(100);
    }
  }

  async cancelTask() {
    throw new Error('no command is cancelled');
  }
}

function publishStatus(request, bus, state, message) {
  const { taskId, contextId } = request;
  bus.publish(AgentEvent.statusUpdate({ taskId, contextId, status: status(state, message), metadata: {} }));
}

function status(state, message) {
  return { state, message, timestamp: new Date().toISOString() };
}

function agentMessage({ taskId, contextId }, parts) {
  return {
    messageId: randomUUID(),
    contextId,
    taskId,
    role: Role.ROLE_AGENT,
    parts,
    metadata: {},
    extensions: [],
    referenceTaskIds: [],
  };
}

function part(content, mediaType, filename = '') {
  return { content, mediaType, filename, metadata: {} };
}

function textPart(value) {
  return part({ $case: 'text', value }, 'text/plain');
}

function textOf(message) {
  return message.parts.find((part) => part.content.$case === 'text').content.value;
}

function card(httpAddress, grpcAddress) {
  return AgentCard.fromJSON({
    name: 'javascript',
    description: 'End-to-end test agent',
    version: '1',
    supportedInterfaces: [
      { url: `http://${httpAddress}/`, protocolBinding: 'JSONRPC', protocolVersion: '1.0' },
      { url: `http://${httpAddress}/rest`, protocolBinding: 'HTTP+JSON', protocolVersion: '1.0' },
      { url: grpcAddress, protocolBinding: 'GRPC', protocolVersion: '1.0' },
    ],
    capabilities: { streaming: true, pushNotifications: true },
    defaultInputModes: ['text/plain'],
    defaultOutputModes: ['text/plain'],
    skills: [{ id: 'commands', name: 'commands', description: 'Text commands', tags: ['test'] }],
  });
}

const { values: options } = parseArgs({
  options: {
    listen: { type: 'string', default: '127.0.0.1' },
    'advertise-http': { type: 'string' }, // HOST:PORT the card shows instead of the bound one
    'advertise-grpc': { type: 'string' }, // the same for gRPC
  },
});
// The SDK tells standard output of every push; ours has one line, for the driver.
console.info = console.error;

const app = express();
const server = app.listen(0, options.listen);
const grpc = new Server({ 'grpc.max_receive_message_length': -1, 'grpc.max_send_message_length': -1 });
const grpcPort = await new Promise((resolve, reject) =>
  grpc.bindAsync(`${options.listen}:0`, ServerCredentials.createInsecure(), (error, port) =>
    error ? reject(error) : resolve(port)));
if (!server.listening) await once(server, 'listening');
const http = `${options.listen}:${server.address().port}`;
const grpcAddress = `${options.listen}:${grpcPort}`;

const agentCard = card(options['advertise-http'] ?? http, options['advertise-grpc'] ?? grpcAddress);
const requestHandler = new DefaultRequestHandler(agentCard, new InMemoryTaskStore(), new Commands());
const userBuilder = UserBuilder.noAuthentication;
// The SDK's own parser stops at express' 100 kB; a body that is parsed already passes it by.
app.use(express.json({ limit: '200mb', type: ['application/json', 'application/a2a+json'] }));
app.use('/.well-known/agent-card.json', agentCardHandler({ agentCardProvider: requestHandler }));
// The SDK has no route of its own for the old path: this is its card handler mounted a second time.
app.use('/.well-known/agent.json', agentCardHandler({ agentCardProvider: requestHandler }));
app.use('/rest', restHandler({ requestHandler, userBuilder }));
app.use('/', jsonRpcHandler({ requestHandler, userBuilder }));
grpc.addService(A2AService, grpcService({ requestHandler, userBuilder: GrpcUserBuilder.noAuthentication }));

console.log(JSON.stringify({ http, grpc: grpcAddress }));
// The driver holds our standard input; its end, however it ends, is ours.
process.stdin.resume().on('end', () => process.exit(0));
