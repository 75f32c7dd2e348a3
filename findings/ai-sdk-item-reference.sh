#!/bin/sh
# @ai-sdk/openai 3.0.141 with ai 6.0.326, and 4.0.118 with ai 7.0.173 (npm, run 2026-11): a model of
# `createOpenAI({ baseURL })` speaks the Responses wire, and takes it that the server keeps each answer,
# even one that came with `"store": false`. From the second turn on, what the assistant said goes out as
# `{"type": "item_reference", "id": …}`, without its words, though the program hands them over among its
# messages. A server that keeps nothing has to refuse that; one that leaves out items it does not know
# answers a conversation without its own part. The first turn, by which one tries a server, works.
# `providerOptions: { openai: { store: false } }` and `openai.chat('m')` send the words.
set -eu
folder=$(mktemp -d)
trap 'rm -rf "$folder"' EXIT INT TERM
for pair in "@ai-sdk/openai@3.0.141 ai@6.0.326" "@ai-sdk/openai@4.0.118 ai@7.0.173"; do
    version=${pair##*@}
    mkdir "$folder/$version"
    # shellcheck disable=SC2086
    npm install --silent --no-fund --no-audit --prefix "$folder/$version" zod@4.6.7 $pair
    cat > "$folder/$version/finding.mjs" <<'JS'
import http from 'node:http'
import { createOpenAI } from '@ai-sdk/openai'
import { generateText } from 'ai'

const usage = { input_tokens: 1, output_tokens: 1, total_tokens: 2 }
const answer = {
  id: 'resp_1', object: 'response', created_at: 1, model: 'm', status: 'completed', store: false, usage,
  output: [{
    id: 'msg_1', type: 'message', role: 'assistant', status: 'completed',
    content: [{ type: 'output_text', text: 'Hi Ada.', annotations: [] }],
  }],
}
const completion = {
  id: 'c', object: 'chat.completion', created: 1, model: 'm',
  choices: [{ index: 0, message: { role: 'assistant', content: 'Hi Ada.' }, finish_reason: 'stop' }],
}
let asked
const server = http.createServer((request, response) => {
  let body = ''
  request.on('data', (data) => { body += data })
  request.on('end', () => {
    asked = JSON.parse(body)
    response.setHeader('content-type', 'application/json')
    response.end(JSON.stringify(request.url === '/v1/responses' ? answer : completion))
  })
})
await new Promise((listening) => server.listen(0, '127.0.0.1', listening))
const baseURL = `http://127.0.0.1:${server.address().port}/v1`
const openai = createOpenAI({ baseURL, apiKey: 'none' })

/** Talk for two turns; return what the second request has in the assistant's place. */
async function secondTurn(model, providerOptions) {
  const messages = [{ role: 'user', content: 'I am Ada.' }]
  const { response, text } = await generateText({ model, messages, providerOptions })
  if (text !== 'Hi Ada.') throw new Error(`the first turn was answered with ${text}`)
  messages.push(...response.messages, { role: 'user', content: 'Who am I?' })
  await generateText({ model, messages, providerOptions })
  return JSON.stringify((asked.input ?? asked.messages)[1])
}

const seen = {
  'by default': await secondTurn(openai('m')),
  'with store: false': await secondTurn(openai('m'), { openai: { store: false } }),
  'with openai.chat': await secondTurn(openai.chat('m')),
}
server.close()
for (const [how, item] of Object.entries(seen)) console.log(`  ${how}: ${item}`)
const [plain, ...others] = Object.values(seen)
if (plain !== '{"type":"item_reference","id":"msg_1"}' || !others.every((item) => item.includes('Hi Ada.'))) {
  console.log('changed')
  process.exit(1)
}
JS
    echo "$pair, the assistant's turn in the second request"
    (cd "$folder/$version" && timeout 60 node finding.mjs)
done
