"""The main job: plan, queue, pass, report; on one device, several, or a cluster."""
