// The test client on JavaScript @a2a-js/sdk 1.x: runs one exchange and prints its transcript as JSON.
//
// Knows nothing of tunnels: it gets a URL, and what it prints is compared by the driver. The words of a
// transcript are those of ../README.md.

import { createHash, randomUUID } from 'node:crypto';

import { AgentCard, Role, TaskState } from '@a2a-js/sdk';
import {
  ClientFactory,
  DefaultAgentCardResolver,
  JsonRpcTransportFactory,
  RestTransportFactory,
} from '@a2a-js/sdk/client';
import { GrpcTransportFactory } from '@a2a-js/sdk/client/grpc';
import { Agent, buildConnector, fetch } from 'undici';

// What the agent says again and again at the gate of a stream, until it is told to go.
const WAITING = 'status working waiting';

// One SDK client and the sockets below it, so that a test can break them.
class Connection {
  sockets = [];

  static async open(card, binding) {
    const connection = new Connection();
    const connect = buildConnector({});
    const dispatcher = new Agent({
      // An agent may think for ten minutes: undici's defaults of five are not for it.
      headersTimeout: 0,
      bodyTimeout: 0,
      connect: (options, callback) => connection.sockets.push(connect(options, callback)),
    });
    const fetchImpl = (url, init) => fetch(url, { ...init, dispatcher });
    connection.client = await new ClientFactory({
      transports: [
        new JsonRpcTransportFactory({ fetchImpl }),
        new RestTransportFactory({ fetchImpl }),
        new GrpcTransportFactory(),
      ],
      preferredTransports: [binding],
    }).createFromAgentCard(card);
    return connection;
  }

  // Breaks the connection: RST for HTTP; the SDK keeps its gRPC channel to itself, so that one is closed.
  kill(aborter) {
    for (const socket of this.sockets) socket.resetAndDestroy();
    aborter.abort();
    this.client.transport.grpcClient?.close();
  }
}

function request(text, parts = [], push = undefined) {
  return {
    tenant: '',
    message: {
      messageId: randomUUID(),
      contextId: '',
      taskId: '',
      role: Role.ROLE_USER,
      parts: [part({ $case: 'text', value: text }, 'text/plain'), ...parts],
      metadata: {},
      extensions: [],
      referenceTaskIds: [],
    },
    configuration: {
      acceptedOutputModes: [],
      taskPushNotificationConfig: push,
      historyLength: undefined,
      returnImmediately: false,
    },
    metadata: {},
  };
}

function part(content, mediaType, filename = '') {
  return { content, mediaType, filename, metadata: {} };
}

function textOf({ parts }) {
  return parts.find((part) => part.content.$case === 'text').content.value;
}

function state(status) {
  return TaskState[status.state].replace('TASK_STATE_', '').toLowerCase();
}

// One event of a stream as one line of a transcript.
function word({ $case, value }) {
  switch ($case) {
    case 'message':
      return 'message ' + textOf(value);
    case 'task':
      return `task ${state(value.status)} artifacts=${value.artifacts.length}`;
    case 'statusUpdate':
      return `status ${state(value.status)} ${value.status.message ? textOf(value.status.message) : ''}`.trim();
    case 'artifactUpdate':
      return 'artifact ' + textOf(value.artifact);
  }
}

// A blocking send gives a bare message or task.
function single(answer) {
  return word({ $case: 'messageId' in answer ? 'message' : 'task', value: answer });
}

// Notes the events of a stream (a run of waiting as one), to `until`. Returns the task's ID.
async function read(events, words, until) {
  let task;
  for (;;) {
    // Not `for await`: that would close the stream at the gate.
    const { value: event, done } = await events.next();
    if (done) return task;
    task ??= event.payload.value.taskId ?? event.payload.value.id;
    const next = word(event.payload);
    if (next !== WAITING || words.at(-1) !== WAITING) words.push(next);
    if (words.at(-1) === until) return task;
  }
}

const exchanges = {
  async card(card) {
    return { card: AgentCard.toJSON(card) };
  },

  async send(card, { binding, text }) {
    const { client } = await Connection.open(card, binding);
    return { answer: single(await client.sendMessage(request(text))) };
  },

  // Reads to the gate, opens it by a second request, and reads to the end.
  async stream(card, params) {
    const { client } = await Connection.open(card, params.binding);
    const token = randomUUID();
    const words = [];
    const events = client.sendMessageStream(request(streamCommand(params, token)));
    const task = await read(events, words, WAITING);
    await sayGo(card, params, token);
    await read(events, words);
    return { events: words, result: await result(client, task) };
  },

  // Breaks the connection at the gate, subscribes again on a new one, and only then opens the gate.
  async resubscribe(card, params) {
    const broken = await Connection.open(card, params.binding);
    const aborter = new AbortController();
    const token = randomUUID();
    const before = [];
    const after = [];
    const lost = broken.client.sendMessageStream(request(streamCommand(params, token)), { signal: aborter.signal });
    const task = await read(lost, before, WAITING);
    broken.kill(aborter);

    const { client } = await Connection.open(card, params.binding);
    const events = client.resubscribeTask({ tenant: '', id: task });
    await read(events, after, WAITING);
    await sayGo(card, params, token);
    await read(events, after);
    return { before, after, result: await result(client, task) };
  },

  async file(card, { binding, size, answer_size }) {
    const value = createHash('shake256', { outputLength: size }).update('client').digest();
    const { client } = await Connection.open(card, binding);
    const file = part({ $case: 'raw', value }, 'application/octet-stream', 'client.bin');
    const answer = await client.sendMessage(request(`file ${answer_size}`, [file]));
    const received = answer.parts.find((part) => part.content.$case === 'raw').content.value;
    const seen = createHash('sha256').update(received).digest('hex');
    return { agent: textOf(answer), client: `received ${received.length} ${seen}` };
  },

  async push(card, { binding, count, webhook, token }) {
    const { client } = await Connection.open(card, binding);
    const config = { tenant: '', id: '', taskId: '', url: webhook, token, authentication: undefined };
    const answer = await client.sendMessage(request(`stream ${count} 20 0 -`, [], config));
    return { answer: single(answer), result: await result(client, answer.id) };
  },
};

function streamCommand({ count, interval_ms, gate }, token) {
  return `stream ${count} ${interval_ms} ${gate} ${token}`;
}

async function sayGo(card, { binding }, token) {
  const { client } = await Connection.open(card, binding);
  await client.sendMessage(request('go ' + token));
}

// What the agent says of the finished task: a second account, independent of the stream.
async function result(client, id) {
  const task = await client.getTask({ tenant: '', id });
  return { state: state(task.status), artifacts: task.artifacts.map(textOf) };
}

const [url, exchange, json] = process.argv.slice(2);
const params = JSON.parse(json);
const card = await new DefaultAgentCardResolver().resolve(url, params.path);
console.log(JSON.stringify(await exchanges[exchange](card, params)));
// Idle connections would keep the process for a while.
process.exit(0);
