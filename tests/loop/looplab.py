"""What test_preferences is made of: a small model made as quickstart makes it, fine-tuning on a scripted rater's thumbs, measuring against the model it came from.

Training is `genloop train --local`; the rest is loop_lab (lab.h). What is there already is left alone: a run that was stopped goes on.
"""
import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time

ROOT = os.path.dirname(os.path.dirname(os.path.dirname(os.path.abspath(__file__))))
MANUALS = ["/usr/share/man/man%s" % s for s in "2 5 7 8 3 4 1".split()] + ["/usr/share/doc"]

# CI has minutes: a model that has seen less. The fine-tuning on preferences is the preset's in both.
QUICK = {"corpus_bytes": 6e6, "documents": 100, "prompts": 200, "pretrain": {"steps": 1000}, "sft": {"steps": 200}}
FULL = {"corpus_bytes": 12e6, "documents": 200, "prompts": 400, "pretrain": {}, "sft": {}}


class Failed(Exception):
    pass


class Lab:
    def __init__(self, description):
        p = argparse.ArgumentParser(description=description, formatter_class=argparse.RawDescriptionHelpFormatter)
        p.add_argument("--build", default=os.path.join(ROOT, "build"), help="build folder (default: build)")
        p.add_argument("--work", help="where models and records go and stay (default: a temporary folder)")
        p.add_argument("--corpus", action="append", help="file or folder to learn from (default: this machine's manual pages and documentation)")
        p.add_argument("--full", action="store_true", help="the presets' whole length, three traits, five seeds")
        p.add_argument("--only", choices=["preferences", "gates"])
        p.add_argument("--prompts", type=int, default=0, help="held-out prompts that are sampled (default: 200, with --full 400)")
        p.add_argument("--threads", type=int, default=0, help="of each program (default: all CPUs); on a busy machine one is faster, and no result changes by it")
        self.args = p.parse_args()
        a = self.args
        self.size = FULL if a.full else QUICK
        self.prompts = a.prompts or self.size["prompts"]
        self.work = os.path.abspath(a.work) if a.work else tempfile.mkdtemp(prefix="genloop-loop-")
        self.lab = os.path.join(a.build, "tests", "loop_lab")
        self.genloop = os.path.join(a.build, "bin", "genloop")
        self.passed = self.failed = 0
        self.begin = time.time()
        os.makedirs(self.work, exist_ok=True)
        for needed in [self.lab, self.genloop]:
            if not os.path.exists(needed):
                sys.exit("%s is not built: ninja -C %s loop_lab genloop" % (needed, a.build))

    def __enter__(self):
        return self

    def __exit__(self, kind, error, trace):
        if not self.args.work:
            shutil.rmtree(self.work, ignore_errors=True)
        if kind is Failed:
            self.check("loop", False, str(error))
        elif kind:
            return False
        print("%d passed, %d failed" % (self.passed, self.failed))
        sys.exit(1 if self.failed else 0)

    def path(self, *parts):
        return os.path.join(self.work, *parts)

    def say(self, text):
        print("[%4d s] %s" % (time.time() - self.begin, text), flush=True)

    def check(self, name, ok, detail):
        self.passed += bool(ok)
        self.failed += not ok
        print("%s %s: %s" % ("ok" if ok else "FAIL", name, detail), flush=True)

    def run(self, verb, *operands, codes=(0,), **options):
        command = [self.lab, verb]
        for key, value in options.items():
            command += ["--" + key, str(value)]
        return self.command(command + list(operands), codes)

    @staticmethod
    def command(command, codes=(0,)):
        r = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
        if r.returncode not in codes:
            raise Failed(" ".join(command) + ": " + (r.stderr.strip() or "ended with %d" % r.returncode))
        return r.stdout

    def once(self, name, make):
        """The folder `name`, made whole by make(temporary) or left as it is."""
        path = self.path(name)
        if not os.path.exists(path):
            temporary = path + ".part"
            shutil.rmtree(temporary, ignore_errors=True)
            make(temporary)
            os.rename(temporary, path)
        return path

    def corpus(self):
        def make(path):
            sources = self.args.corpus or [d for d in MANUALS if os.path.isdir(d)]
            self.say(self.run("corpus", *sources, out=path, bytes=self.size["corpus_bytes"]).strip())

        return self.once("corpus", make)

    def train(self, name, preset, seed=1, base=None, data=None, **overrides):
        """A run of the preset that ships, with its data, base and seed put in. Finished runs are not done again, broken ones go on."""
        recipe = dict(json.loads(self.run("preset", name=preset)))
        recipe["seed"] = seed
        recipe["threads"] = self.args.threads
        recipe["data"] = data
        for key, value in overrides.items():
            if isinstance(value, dict):
                recipe[key] = {**recipe.get(key, {}), **value}
            else:
                recipe[key] = value
        if base:
            recipe["model"] = {"base": base}
        os.makedirs(self.path("recipes"), exist_ok=True)
        path = self.path("recipes", name + ".yaml")
        with open(path, "w") as f:
            json.dump(recipe, f)  # JSON is YAML too
        out = self.path(name)
        if not os.path.exists(os.path.join(out, "model.safetensors")):
            begin = time.time()
            steps = [json.loads(line) for line in self.command([self.genloop, "train", "--local", "--recipe", path, "--out", out]).splitlines()]
            tail = steps[-10:]
            self.say("%s: %d steps, loss %.3f → %.3f, %.0f s" % (name, len(steps), steps[0]["loss"], sum(s["loss"] for s in tail) / len(tail), time.time() - begin))
        return out

    def base(self):
        corpus = self.corpus()
        tokens = {"tokens": os.path.join(corpus, "train.bin"), "tokenizer": os.path.join(corpus, "tokenizer"), "shuffle": True}
        pretrained = self.train("pretrained", "pretrain-small", data=tokens, **self.size["pretrain"])
        pairs = {"file": os.path.join(corpus, "train-pairs.jsonl"), "shuffle": True}
        return self.train("assistant", "sft-small", base=pretrained, data=pairs, **self.size["sft"])

    def rate(self, name, model, trait, seed=1, shuffle=False):
        def make(path):
            text = self.run("rate", model=model, pairs=os.path.join(self.corpus(), "train-pairs.jsonl"), trait=trait, seed=seed, shuffle=int(shuffle), out=path, prompts=400, answers=4,
                            threads=self.args.threads)
            self.say("%s: %s" % (name, text.strip()))

        return self.once(name, make)

    def improve(self, name, model, ratings, seed=1, **overrides):
        return self.train(name, "dpo-small", seed=seed, base=model, data={"file": os.path.join(ratings, "preferences.jsonl"), "shuffle": True}, **overrides)

    def measure(self, name, candidate, baseline, ratings=None, trait="", seed=1):
        work = self.path("records", name + ".work")
        os.makedirs(work, exist_ok=True)
        options = {"preferences": os.path.join(ratings, "held-preferences.jsonl")} if ratings else {}
        text = self.run("measure", candidate=candidate, baseline=baseline, corpus=self.corpus(), trait=trait, seed=seed, prompts=self.prompts,
                        documents=self.size["documents"], work=work, threads=self.args.threads,
                        out=self.path("records", name + ".json"), codes=(0, 3), **options)
        os.rmdir(work)
        figures, gates = {}, {}
        for line in text.splitlines():
            word = line.split(" ", 4)
            if word[0] == "figure":
                figures[word[1]] = tuple(float(x) for x in line.split()[2:5])
            else:
                gates[word[1]] = {"passed": word[2] == "passed", "margin": float(word[3]), "rule": word[4]}
        return {"figures": figures, "gates": gates, "passed": all(g["passed"] for g in gates.values())}
