"""Device platforms (CTWing AEP) as somebody who only asks: how a device is there, when a fault is looked for."""
