// Asks llama.cpp by way of the npm package node-llama-cpp: ids of texts, logits behind prompts, greedy continuations.
//
//   node llama_cpp.mjs PACKAGE_FOLDER REQUEST.json ANSWER_FOLDER
//
// REQUEST: {file, context, threads, texts: [text], chats: [text], prompts: [[id]], positions, steps, ends: [id]}
// ANSWER_FOLDER/answer.json: {version, tokens: [[id]], chats: [[id]], greedy: [[id]], vocabulary}
// ANSWER_FOLDER/logits-N.bin: the last `positions` places of prompt N, float32, places x vocabulary
import {readFileSync, writeFileSync} from "node:fs";
import {join} from "node:path";
import {pathToFileURL} from "node:url";

const [folder, request, answer] = process.argv.slice(2);
const asked = JSON.parse(readFileSync(request, "utf8"));
const {getLlama} = await import(pathToFileURL(join(folder, "dist", "index.js")).href);
const about = JSON.parse(readFileSync(join(folder, "package.json"), "utf8"));
const llama = await getLlama({gpu: false, build: "never", maxThreads: asked.threads, logLevel: "error", progressLogs: false});
writeFileSync(join(answer, "started"), ""); // from here on an error is the file's
const model = await llama.loadModel({modelPath: asked.file, gpuLayers: 0});
const tokens = asked.texts.map((text) => model.tokenize(text, false));
const chats = asked.chats.map((text) => model.tokenize(text, true));
const greedy = [];
let vocabulary = 0;
if (asked.prompts.length > 0) {
    const context = await model.createContext({
        contextSize: asked.context,
        batchSize: asked.context,
        sequences: 1,
        threads: asked.threads,
        flashAttention: false,
        experimentalKvCacheKeyType: "F32", // the bound is derived for keys and values that are not rounded
        experimentalKvCacheValueType: "F32"
    });
    const sequence = context.getSequence();
    for (const [number, prompt] of asked.prompts.entries()) {
        await sequence.clearHistory();
        const first = Math.max(0, prompt.length - asked.positions);
        const input = prompt.map((id, place) => place < first ? id : [id, {generateNext: {logits: true}}]);
        const found = await sequence.controlledEvaluate(input);
        const places = found.slice(first).map((one) => one.next.logits);
        vocabulary = Math.max(...places[0].keys()) + 1;
        const numbers = new Float32Array(places.length * vocabulary).fill(NaN);
        places.forEach((logits, place) => {
            for (const [id, value] of logits) numbers[place * vocabulary + id] = value;
        });
        writeFileSync(join(answer, `logits-${number}.bin`), Buffer.from(numbers.buffer));
        await sequence.clearHistory();
        const said = [];
        let ahead = prompt;
        while (said.length < asked.steps) { // the likeliest by its logit: a sampler would have rules of its own
            const last = ahead[ahead.length - 1];
            const found = await sequence.controlledEvaluate([...ahead.slice(0, -1), [last, {generateNext: {logits: true}}]]);
            const [id] = found.at(-1).next.logits.keys(); // the highest comes first
            said.push(id);
            if (asked.ends.includes(id)) break;
            ahead = [id];
        }
        greedy.push(said);
    }
    await context.dispose();
}
const version = `node-llama-cpp ${about.version}, llama.cpp ${llama.llamaCppRelease?.release ?? "unknown"}`;
writeFileSync(join(answer, "answer.json"), JSON.stringify({version, tokens, chats, greedy, vocabulary}));
await model.dispose();
await llama.dispose();
process.exit(0);
