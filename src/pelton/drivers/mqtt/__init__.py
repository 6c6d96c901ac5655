"""MQTT: `pubsub.mqtt3` and `bindings.mqtt3`."""

from pelton.drivers.mqtt.bus import MqttBinding, MqttBus

__all__ = ["MqttBinding", "MqttBus"]
