#!/bin/sh
# @modelcontextprotocol/server 2.4.0 with zod 4.6.7, asked by mcp 2.3.0 and by @modelcontextprotocol/client
# 2.4.0 (run 2026-11): results that the TypeScript SDK's server has validated are refused by both SDKs'
# clients, after the tool has run, and what it answered is lost:
#
# - a field with a default that the tool leaves out. zod fills it in, the server sends the result as it
#   was before, and the schema that it lists names the field as required;
# - a field too many. zod takes it out, the server sends it, and the listed schema forbids it.
#
# The Python client also refuses a schema whose pattern Python's `re` does not know, such as \p{L}:
# JSON Schema's patterns are JavaScript's. (Upstream, the first two: typescript-sdk #2464.)
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
cd "$folder"
npm install --silent --no-audit --no-fund --prefix "$folder" zod@4.6.7 \
    @modelcontextprotocol/server@2.4.0 @modelcontextprotocol/client@2.4.0 >log 2>&1 || { tail -5 log; exit 1; }
python3 -m venv venv
venv/bin/pip install --quiet --disable-pip-version-check mcp==2.3.0
cat > server.mjs <<'JS'
import { appendFileSync } from 'node:fs';
import { McpServer } from '@modelcontextprotocol/server';
import { StdioServerTransport } from '@modelcontextprotocol/server/stdio';
import * as z from 'zod';

const server = new McpServer({ name: 's', version: '1' });
const tools = {
  plain: [z.object({ name: z.string() }), { name: 'Zoë' }],
  default_left_out: [z.object({ name: z.string(), unit: z.string().default('m') }), { name: 'Zoë' }],
  field_too_many: [z.object({ name: z.string() }), { name: 'Zoë', age: 3 }],
  pattern: [z.object({ name: z.string().regex(/^\p{L}+$/u) }), { name: 'Zoë' }],
};
for (const [name, [outputSchema, structuredContent]] of Object.entries(tools))
  server.registerTool(name, { description: name, inputSchema: z.object({}), outputSchema }, async () => {
    appendFileSync('ran', `${name}\n`);
    return { content: [{ type: 'text', text: 'here' }], structuredContent };
  });
await server.connect(new StdioServerTransport());
JS
cat > client.mjs <<'JS'
import { Client } from '@modelcontextprotocol/client';
import { StdioClientTransport } from '@modelcontextprotocol/client/stdio';

const client = new Client({ name: 'c', version: '1' });
await client.connect(new StdioClientTransport({ command: 'node', args: ['server.mjs'] }));
for (const { name } of (await client.listTools()).tools)
  try {
    console.log(`${name}: ${(await client.callTool({ name, arguments: {} })).content[0].text}`);
  } catch (error) {
    console.log(`${name}: ${error.message}`);
  }
await client.close();
JS
cat > client.py <<'PYTHON'
import asyncio

from mcp import Client, StdioServerParameters


async def main():
    server = StdioServerParameters(command="node", args=["server.mjs"])
    async with Client(server, mode="legacy") as client:
        for tool in (await client.list_tools()).tools:
            try:
                said = (await client.call_tool(tool.name, {})).content[0].text
            except RuntimeError as exc:
                said = str(exc).splitlines()[0]
            print(f"{tool.name}: {said}")


asyncio.run(main())
PYTHON
echo "TypeScript's client:"
timeout 60 node client.mjs 2>log | tee seen
echo "Python's client:"
timeout 60 venv/bin/python -W ignore client.py 2>log | tee -a seen
cat > expected <<'TEXT'
plain: here
default_left_out: Structured content does not match the tool's output schema: data must have required property 'unit'
field_too_many: Structured content does not match the tool's output schema: data must NOT have additional properties
pattern: here
plain: here
default_left_out: Invalid structured content returned by tool default_left_out: 'unit' is a required property
field_too_many: Invalid structured content returned by tool field_too_many: Additional properties are not allowed ('age' was unexpected)
pattern: Invalid schema for tool pattern: '^\\p{L}+$' is not a 'regex'
TEXT
[ "$(wc -l < ran)" -eq 8 ] && cmp -s seen expected || { echo changed; exit 1; }
