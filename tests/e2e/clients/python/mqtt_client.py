"""Logs in to an MQTT broker over WebSockets with paho-mqtt, publishes to itself, prints the result.

Arguments: port, path, certificate to trust, token, version of MQTT (4 or 5).
"""

import sys
import threading

import paho.mqtt.client as mqtt


def main(port: str, path: str, certificate: str, token: str, version: str) -> None:
    heard: list[str] = []
    done = threading.Event()

    def on_connect(client, userdata, flags, reason, properties):
        if reason.is_failure:
            heard.append(f"refused {reason.value}")
            done.set()
        else:
            client.subscribe("rooms/paho", qos=1)

    def on_subscribe(client, userdata, message_id, reasons, properties):
        client.publish("rooms/paho", "hello", qos=1)

    def on_message(client, userdata, message):
        heard.append(f"{message.topic} {message.payload.decode()}")
        done.set()

    protocol = {"4": mqtt.MQTTv311, "5": mqtt.MQTTv5}[version]
    client = mqtt.Client(mqtt.CallbackAPIVersion.VERSION2, protocol=protocol, transport="websockets")
    client.on_connect, client.on_subscribe, client.on_message = on_connect, on_subscribe, on_message
    # Without this header, it sends the address of the server as its origin.
    client.ws_set_options(path=path, headers={"Origin": "https://app.example.com"})
    client.tls_set(ca_certs=certificate)
    client.username_pw_set("ada", token)
    client.will_set("rooms/gone", "bye", qos=1)
    client.connect("localhost", int(port))
    client.loop_start()
    done.wait(40)
    client.disconnect()
    client.loop_stop()
    print(*heard or ["silence"])


main(*sys.argv[1:])
