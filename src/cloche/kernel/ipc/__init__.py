"""System V IPC: shared memory, semaphores, message queues, and the namespace that holds them.

Left of `kernel.task`: these modules know tasks only as `TaskBase`, so that a task can hold its namespace.
"""
