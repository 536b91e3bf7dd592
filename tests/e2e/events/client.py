"""A sender of events: `cloudevents HOST:PORT`, or `amqp HOST:PORT QUEUE`; prints the transcript as JSON.

CloudEvents go to a sink over HTTP, in both modes, many over one connection. AMQP goes to a broker: messages that it confirms,
one that is large, and one that comes after a silence longer than several heartbeats.
"""

import datetime
import hashlib
import http.client
import json
import sys
import time

import pika
from cloudevents.core.bindings.http import to_binary_event, to_structured_event
from cloudevents.core.v1.event import CloudEvent

EVENTS = 20
MESSAGES = 200
LARGE_BYTES = 8 << 20
HEARTBEAT_SECONDS = 2
SILENCE_SECONDS = 7


def event(number):
    """An event as a broker of a Knative service sends it, with an extension and text that is not ASCII."""
    return CloudEvent(
        attributes={
            "id": f"e-{number}", "source": "/brokers/edge", "type": "dev.adit.test.asked", "subject": "Überweisung",
            "time": datetime.datetime(2026, 1, 2, 3, 4, 5, tzinfo=datetime.timezone.utc),
            "datacontenttype": "application/json", "knativehistory": "default-kn-channel", "specversion": "1.0",
        },
        data={"number": number, "text": "größer als 5 €"},
    )


def cloudevents(host, port):
    connection = http.client.HTTPConnection(host, port, timeout=30)
    answers = []
    for number in range(EVENTS):
        for encode in (to_binary_event, to_structured_event):
            message = encode(event(number))
            connection.request("POST", "/", message.body, message.headers)
            answer = connection.getresponse()
            answers.append([answer.status, json.loads(answer.read())])
    # One that lacks what it must have is refused by the sink and not by anybody between.
    connection.request("POST", "/", b"{}", {"Content-Type": "application/cloudevents+json"})
    refused = connection.getresponse()
    refused.read()
    return {"answers": answers, "refused": refused.status}


def amqp(host, port, queue):
    parameters = pika.ConnectionParameters(host, port, heartbeat=HEARTBEAT_SECONDS, blocked_connection_timeout=30)
    connection = pika.BlockingConnection(parameters)
    channel = connection.channel()
    channel.queue_delete(queue)
    channel.queue_declare(queue, durable=True)
    channel.confirm_delivery()
    lasting = pika.BasicProperties(delivery_mode=2, content_type="text/plain")
    for number in range(MESSAGES):
        channel.basic_publish("", queue, f"message {number}".encode(), lasting, mandatory=True)
    large = hashlib.shake_256(b"large").digest(LARGE_BYTES)
    channel.basic_publish("", queue, large, lasting, mandatory=True)
    channel.basic_qos(prefetch_count=10)
    got, whole = [], None
    for method, _, body in channel.consume(queue, inactivity_timeout=30):
        if method is None:
            break
        channel.basic_ack(method.delivery_tag)
        if len(body) > 1000:
            whole = hashlib.sha256(body).hexdigest()
            break
        got.append(body.decode())
    channel.cancel()
    # Nothing but heartbeats pass for a while, which both sides would miss.
    connection.sleep(SILENCE_SECONDS)
    channel.basic_publish("", queue, b"after the silence", lasting, mandatory=True)
    _, _, late = channel.basic_get(queue, auto_ack=True)
    again = pika.BlockingConnection(parameters)
    left = again.channel().queue_declare(queue, passive=True).method.message_count
    again.close()
    connection.close()
    in_order = got == [f"message {number}" for number in range(MESSAGES)]
    return {
        "in_order": in_order, "count": len(got), "large": whole == hashlib.sha256(large).hexdigest(), "late": late.decode(), "left": left,
    }


began = time.monotonic()
host, port = sys.argv[2].rsplit(":", 1)
transcript = {"cloudevents": cloudevents, "amqp": amqp}[sys.argv[1]](host, int(port), *sys.argv[3:])
print(json.dumps({"transcript": transcript, "seconds": round(time.monotonic() - began, 1)}))
