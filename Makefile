# `make` alone lists what there is to do. All of it can be run twice.

PRESET = class
PY = .venv/bin/python
READY = .venv/ready
NBVAL = --nbval-lax --nbval-current-env --nbval-cell-timeout
THREADS = OMP_NUM_THREADS=1

.PHONY: help doctor course lab book versions test test-full lint notebooks clean

help:
	@echo "make doctor           what this computer lacks for the course, if anything"
	@echo "make course           run every lesson, make the book (runs/course/index.html)"
	@echo "make course PRESET=smoke   the same in a few minutes, on tiny data"
	@echo "make lab              open the lessons in JupyterLab"
	@echo "make book             make the book again, without running anything"
	@echo "make versions         for teachers: lessons for students, with solutions, with notes"
	@echo "make test             all tests, lessons and JupyterLab included, under 20 minutes"
	@echo "make test-full        the long tests: lessons at preset class, tables compared"
	@echo "make lint             ruff: rules and format"
	@echo "make notebooks        for maintainers: rebuild notebooks/*.ipynb from their sources"
	@echo "make clean            remove runs/ (trained networks too) and caches, not .venv"

$(READY): pyproject.toml tools/install.sh
	@sh tools/install.sh

doctor: $(READY)
	@$(PY) -m sbtutor.doctor

course: $(READY)
	@echo "== running the lessons at preset $(PRESET), two at a time"
	@$(PY) -m sbtutor.course run --preset $(PRESET) --out runs/course

book: $(READY)
	@echo "== making the book"
	@$(PY) -m sbtutor.course book --out runs/course

versions: $(READY)
	@echo "== writing runs/versions/student, solution and teacher"
	@$(PY) -m sbtutor.course versions

lab: $(READY)
	@echo "== JupyterLab on notebooks/, for this computer only; Ctrl-C twice ends it"
	@root=; [ "$$(id -u)" -ne 0 ] || root=--allow-root; \
	  $(PY) -m jupyterlab notebooks --ServerApp.ip=127.0.0.1 $$root

lint: $(READY)
	@echo "== ruff: rules, then format"
	@$(PY) -m ruff check .
	@$(PY) -m ruff format --check .

# The lessons (nbval) and the tests in a browser run beside the package's other tests,
# and are reported after them.
BROWSER = tests/test_lab.py tests/test_axe.py

test: lint
	@echo "== tests of the package; beside them the lessons at preset smoke, and a browser"
	@mkdir -p runs; export $(THREADS) SBTUTOR_PRESET=smoke; \
	{ trap 'kill $$now; wait $$now; exit 143' TERM HUP; \
	  $(PY) -m pytest $(NBVAL) 300 notebooks & now=$$!; wait $$now; lessons=$$?; \
	  $(PY) -m pytest $(BROWSER) & now=$$!; wait $$now && [ $$lessons -eq 0 ]; \
	} > runs/beside.log 2>&1 & beside=$$!; \
	env -u SBTUTOR_PRESET $(PY) -m pytest tests $(addprefix --ignore=,$(BROWSER)) & \
	package=$$!; \
	trap 'kill $$beside $$package; wait; exit 130' INT; \
	trap 'kill $$beside $$package; wait; exit 143' TERM HUP; \
	wait $$package; package=$$?; \
	echo "== the lessons and the browser, run beside (runs/beside.log)"; \
	wait $$beside; beside_said=$$?; cat runs/beside.log; \
	[ $$package -eq 0 ] || echo "== the package's tests FAILED (see above)"; \
	[ $$package -eq 0 ] && [ $$beside_said -eq 0 ]

test-full: $(READY)
	@echo "== long tests, then the lessons at preset class"
	@$(THREADS) $(PY) -m pytest tests -m full
	@$(THREADS) SBTUTOR_PRESET=class $(PY) -m pytest $(NBVAL) 3600 notebooks

notebooks: $(READY)
	@echo "== building notebooks/*.ipynb from notebooks/source at preset $(PRESET)"
	@$(PY) -m sbtutor.course build --preset $(PRESET)

clean:
	rm -rf runs build .pytest_cache .ruff_cache *.egg-info
